"""What both APIs answer: a text by the oracle, in the shape that was asked for, or off by a fault.

An answer is a function of the request, the oracle and the fault, and of nothing else, so that two
runs can be compared byte by byte (ids aside).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from .cache import count
from .schema import NOTHING, Schema, alter, fill

# The user's text → the value of the answer; None leaves it to the stand-in.
Oracle = Callable[[str], Any]
_HALVED = ("refusal_late", "pause_turn", "context_window")
_CHANGES: Final[dict[str, Callable[[str], str]]] = {
    "off_enum": lambda label: f"{label}_or_so",
    "other_case": str.swapcase,
}


def as_oracle(given: Oracle | Mapping[str, Any] | None) -> Oracle:
    """A mapping is asked for the whole text first, then for its longest key inside the text."""
    if given is None:
        return lambda _: None
    if not isinstance(given, Mapping):
        return given
    book, keys = given, sorted(given, key=len, reverse=True)

    def look(text: str) -> Any:
        return book[text] if text in book else next((book[k] for k in keys if k in text), None)

    return look


def answer(
    oracle: Oracle, asked: str, schema: Schema | None, limit: int, off: str
) -> tuple[str, str]:
    """The text as far as it goes, and what cut it short: a fault's name, or nothing."""
    text = _whole(oracle(asked), asked, schema, off)
    if off == "max_tokens" or count(text) > limit:
        # Half at most, so that JSON is never whole by chance. Charged to the limit.
        return text[: min(len(text) // 2, 4 * limit)], "max_tokens"
    return (text[: len(text) // 2], off) if off in _HALVED else (text, "")


def _whole(value: Any, asked: str, schema: Schema | None, off: str) -> str:
    if schema is None:
        if value is None:
            return f"An answer to {hashlib.sha256(asked.encode()).hexdigest()[:8]}."
        return value if isinstance(value, str) else json.dumps(value)
    shaped = fill(schema, NOTHING if value is None else value)
    return json.dumps(alter(schema, shaped, _CHANGES[off]) if off in _CHANGES else shaped)
