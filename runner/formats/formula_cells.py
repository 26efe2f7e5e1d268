"""CSV for spreadsheets: escapes texts that a spreadsheet would take for a formula.

A customer may write ``=HYPERLINK(…)``, and a model may repeat it. All text written to a CSV file is
escaped here, and unescaped when such a file is read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from typing import Any, TextIO

# What a spreadsheet would take for a formula (OWASP, "CSV Injection"), also in full-width and small
# forms and after invisible characters; a plain number is not one.
_FORMULA = re.compile(
    r"'*[\s\u00ad\u200b-\u200f\u2060\ufeff]*"
    r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
)
_GUARDED = re.compile(rf"'{_FORMULA.pattern}")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


def guarded(text: str) -> str:
    """The text, with an apostrophe in front if it would be taken for a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The inverse of `guarded`; other texts are unchanged."""
    return text[1:] if _GUARDED.match(text) else text


def row_writer(file: TextIO) -> Callable[[Iterable[Any]], None]:
    """A function that writes rows of cells."""
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(cells: Iterable[Any]) -> None:
        row = list(cells)
        # Python does not quote a carriage return, and the rest would begin another row.
        broken = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (quoted if broken else plain).writerow(row)

    return write
