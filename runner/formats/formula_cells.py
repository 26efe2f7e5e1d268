"""CSV for spreadsheets: texts as they can stand in a cell, never a formula.

A customer may write ``=HYPERLINK(…)``, and a model repeat it. Whatever we write into a CSV file
passes here, and whatever we read of such a file comes back as it was.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from typing import Any, TextIO

# What a spreadsheet would take for a formula (OWASP, "CSV Injection"), in its wide and small
# forms too and behind what does not show; a plain number is none.
_FORMULA = re.compile(
    r"'*[\s\u00ad\u200b-\u200f\u2060\ufeff]*"
    r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"
)
_GUARDED = re.compile(rf"'{_FORMULA.pattern}")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


def guarded(text: str) -> str:
    """With an apostrophe in front, where it would be taken for a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The text that was `guarded`; any other as it is."""
    return text[1:] if _GUARDED.match(text) else text


def row_writer(file: TextIO) -> Callable[[Iterable[Any]], None]:
    """Writes rows of cells, each row on a line of its own for whoever reads it."""
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(cells: Iterable[Any]) -> None:
        row = list(cells)
        # Python leaves such a text without quotes, and its rest would begin another row.
        broken = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (quoted if broken else plain).writerow(row)

    return write
