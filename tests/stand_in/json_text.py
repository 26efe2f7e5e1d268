"""Where the values of a JSON text begin and end: a part of a batch goes on the bill to the byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def members(text: str, at: int = 0) -> dict[str, tuple[int, int]]:
    """Of the object that begins at `at`, in a text known to be sound."""
    found: dict[str, tuple[int, int]] = {}
    at = _skip(text, _skip(text, at) + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        found[name] = (start, end)
        at = _next(text, end)
    return found


def items(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Of the list that begins at `at`."""
    at = _skip(text, _skip(text, at) + 1)
    while text[at] != "]":
        _, end = _DECODER.raw_decode(text, at)
        yield at, end
        at = _next(text, end)


def _next(text: str, at: int) -> int:
    at = _skip(text, at)
    return _skip(text, at + 1) if text[at] == "," else at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
