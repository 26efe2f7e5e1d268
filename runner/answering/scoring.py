"""The version of the scoring: scores computed in another way are not comparable."""

from __future__ import annotations

WHITESPACE = 2
"""The most spaces, line feeds or tabs between two tokens of a JSON answer."""
SCORING = f"numbers' ends count; white space to {WHITESPACE}; control tokens in texts are text"
"""Must change with any change to answers' scores: `runner.answering.value_probability`, the
grammars (`runner.engines.grammars`), and the tokenisation of prompts (`runner.engines.tokens`)."""
