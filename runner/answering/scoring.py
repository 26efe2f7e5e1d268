"""How scores come about, in a word: those of another way are not alike, and certify nothing."""

from __future__ import annotations

WHITESPACE = 2
"""So many spaces, line feeds or tabs may stand between two tokens of a JSON answer."""
SCORING = f"numbers' ends count; white space to {WHITESPACE}; control tokens in texts are text"
"""Changed with whatever changes the score of an answer: `runner.answering.value_probability`, what
an answer is held to (`runner.engines.grammars`), and how a prompt becomes tokens
(`runner.engines.tokens`)."""
