"""The rows of a batch: the bytes of each part that is asked, and the body of the results."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from .faults import Fault

_DECODER: Final = json.JSONDecoder()
_BETWEEN: Final = re.compile(r"[ \t\r\n,:]*")


def inner(text: str, at: int = 0) -> Iterator[tuple[Any, int, int]]:
    """Of the list or object that begins at `at`, in a text known to be sound: each value, a name
    being one as well, and where it begins and ends. A part goes on the bill to the byte."""
    at = _skip(text, _skip(text, at) + 1)
    while text[at] not in "}]":
        value, end = _DECODER.raw_decode(text, at)
        yield value, at, end
        at = _skip(text, end)


def member(text: str, name: str, at: int = 0) -> tuple[int, int]:
    """Where the value of this name begins and ends."""
    values = list(inner(text, at))
    pairs = zip(values[::2], values[1::2], strict=True)
    return next((start, end) for (key, *_), (_, start, end) in pairs if key == name)


def _skip(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def dump(rows: Iterable[Any]) -> list[bytes]:
    """Never in the order that was asked, and the same order each time.

    Letters as they are: what breaks a client's lines, a line separator say, goes out unescaped.
    """
    asked = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows]
    shuffled = random.Random(len(asked)).sample(asked, len(asked))
    return shuffled if shuffled != asked else asked[1:] + asked[:1]


def body(rows: list[bytes], fault: Fault | None) -> bytes:
    """JSONL, or what a fault makes of it."""
    rows, middle, off = list(rows), len(rows) // 2, fault.answer if fault else ""
    if rows and off == "missing_row":
        del rows[middle]
    elif rows and off == "double_row":
        rows.append(rows[middle])
    elif rows and off == "stray_row":
        stray = json.loads(rows[middle]) | {"custom_id": "nobody_asked"}
        rows.insert(middle, json.dumps(stray).encode())
    elif rows and off == "malformed_row":
        rows[middle] = rows[middle][: len(rows[middle]) // 2]
    lines = [row + b"\n" for row in rows]
    if off == "cut_at_line":
        lines = lines[:middle]
    elif rows and off == "cut_in_line":
        lines = [*lines[:middle], rows[middle][: len(rows[middle]) // 2]]
    return b"".join(lines) + (b"\n" if off == "blank_last_row" else b"")
