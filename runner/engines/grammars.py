"""An answer's constraint as the grammar backends take it, its white space bounded.

JSON allows any number of spaces between its tokens, and a small model that may write one writes
them until it is cut off; without any, models leave lists empty that they would have filled. So
there may be a few, as a model writes them itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner.answering.scoring import WHITESPACE


def json_options() -> dict[str, Any]:
    """Of xgrammar's ``from_json_schema`` and ``compile_json_schema``."""
    return {"any_whitespace": True, "max_whitespace_cnt": WHITESPACE}


def ebnf(schema: Mapping[str, Any]) -> str:
    """The schema's grammar, in xgrammar's EBNF.

    Raises:
        RuntimeError: xgrammar refuses the schema.
    """
    import xgrammar

    return str(xgrammar.Grammar.from_json_schema(json.dumps(schema), **json_options()))


def guided(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the bound as llguidance reads it; xgrammar passes it over. Its own pattern
    for white space may come any number of times, but the separators' only once: so there is some
    about commas and colons, and none within the brackets' edges."""
    some = rf"[ \n\t]{{0,{WHITESPACE}}}"
    separators = {"item_separator": f"{some},{some}", "key_separator": f"{some}:{some}"}
    return {**schema, "x-guidance": {"whitespace_flexible": False, **separators}}


def choice_grammar(labels: Sequence[str]) -> str:
    """One of the labels, in xgrammar's EBNF (as vLLM's ``choice_as_grammar``)."""
    return "root ::= " + " | ".join(json.dumps(label, ensure_ascii=False) for label in labels)


def without_place(said: str) -> str:
    """xgrammar's sentence without the time and the line of C++ before it."""
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", said)
