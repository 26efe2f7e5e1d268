"""The body of a batch's results: never in the order that was asked, unless a test wants it so."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

STRAY = "nobody_asked"


def dump(row: Any) -> bytes:
    # Letters as they are: what breaks a client's lines, a line separator say, goes out unescaped.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")


def shuffle(rows: Iterable[bytes], seed: str) -> list[bytes]:
    """The same order each time, and another one than was given."""
    asked = list(rows)
    shuffled = list(asked)
    random.Random(seed).shuffle(shuffled)
    return shuffled if shuffled != asked else asked[1:] + asked[:1]


def body(rows: list[bytes], off: str) -> bytes:
    """JSONL, or what a fault makes of it."""
    rows, middle = list(rows), len(rows) // 2
    if rows:
        _spoil(rows, middle, off)
    if off == "cut_at_line":
        rows = rows[:middle]
    whole = b"".join(row + b"\n" for row in rows)
    if off == "cut_in_line" and rows:
        last = rows[middle]
        whole = b"".join(row + b"\n" for row in rows[:middle]) + last[: len(last) // 2]
    return whole + b"\n" if off == "blank_last_row" else whole


def _spoil(rows: list[bytes], place: int, off: str) -> None:
    if off == "missing_row":
        del rows[place]
    elif off == "double_row":
        rows.append(rows[place])
    elif off == "stray_row":
        rows.insert(place, dump(json.loads(rows[place]) | {"custom_id": STRAY}))
    elif off == "malformed_row":
        rows[place] = rows[place][: len(rows[place]) // 2]
