"""Texts of others as a terminal, a log or a page may show them: no control code gets through.

An id, a value, a model's name, a provider's error or a file's name may hold what moves the cursor,
colours what follows, turns the direction of writing, or begins a line that looks like ours.
"""

from __future__ import annotations

import re

_BREAKS = re.compile("[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# C0 and C1 but for the tab and the line's end, marks of direction, invisible tags, half surrogates.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text with each such character as its escape. In JSON it stands for the same."""
    return _UNSHOWN.sub(_escape, text)


def one_line(text: str) -> str:
    """The same, and in one line whatever it was."""
    return printable(_BREAKS.sub(" ", text))


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
