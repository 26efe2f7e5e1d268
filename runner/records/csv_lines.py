"""Parses CSV rows with the standard library's strict parser, one record's lines at a time.

Given a whole file, that parser would lose everything after an unclosed quote. So each record's
physical lines are gathered by counting quotes. If they do not parse, or if one of them is clearly a
separate record, only the first line is a bad record, and reading continues with the next.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# A quoted field may hold a pasted thread of many lines; beyond this, the quote is unclosed.
MOST_LINES = 20_000
csv.field_size_limit(1 << 30)
BOM = "\ufeff"
_RUN = re.compile(r"[^\W\d_]+|\d+")
_IN_ID = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Row:
    """One row; with a ``problem``, the cells that could be read."""

    line: int
    cells: list[str]
    problem: str | None = None


class Lines:
    """Physical lines with their numbers; lines can be put back."""

    def __init__(self, source: Iterable[str]) -> None:
        self._source = enumerate(source, start=1)
        self._back: deque[tuple[int, str]] = deque()

    def take(self) -> tuple[int, str] | None:
        return self._back.popleft() if self._back else next(self._source, None)

    def put_back(self, lines: list[tuple[int, str]]) -> None:
        self._back.extendleft(reversed(lines))


def rows(
    lines: Lines, delimiter: str, is_record: Callable[[list[str], list[str]], bool] | None = None
) -> Iterator[Row]:
    """The rows of all non-empty lines. ``is_record(cells, others)`` says whether ``cells`` are a
    separate record, not part of a value in ``others``."""
    while (first := lines.take()) is not None:
        number, text = first
        text = text.removeprefix(BOM)  # in joined files
        if not text.strip(_NO_TEXT):
            continue
        first = (number, text)
        try:
            yield Row(number, parsed((text,), delimiter))
            continue
        except csv.Error:
            gathered, quotes = [first], text.count('"')
        while quotes % 2 and len(gathered) < MOST_LINES and (more := lines.take()) is not None:
            gathered.append(more)
            quotes += more[1].count('"')
        try:
            cells = parsed([text for _, text in gathered], delimiter)
            if is_record is not None:
                _check_swallowed(gathered, cells, delimiter, is_record)
            yield Row(number, cells)
        except csv.Error as error:
            lines.put_back(gathered[1:])
            legible = [cell.strip('"') for cell in text.rstrip("\r\n").split(delimiter)]
            yield Row(number, legible, f"line {number}: broken CSV quoting ({error}); {_FIX}")


_FIX = "double each quote"
_NO_TEXT = "\r\n\x1a"  # the last one is DOS's end of file


def parsed(lines: Iterable[str], delimiter: str) -> list[str]:
    """One record's cells.

    Raises:
        csv.Error: the lines are not one record.
    """
    found = list(csv.reader(lines, delimiter=delimiter, strict=True))
    if len(found) != 1:
        raise csv.Error("a quoted value extends into another record")
    return found[0]


def _check_swallowed(
    gathered: list[tuple[int, str]],
    cells: list[str],
    delimiter: str,
    is_record: Callable[[list[str], list[str]], bool],
) -> None:
    """Raises `csv.Error` if an unclosed quote has made records part of a value."""
    for number, text in gathered[1:]:
        try:
            within = parsed((text,), delimiter)
        except csv.Error:
            within = text.rstrip("\r\n").split(delimiter)  # the line in which the quote ends
        if is_record(within, cells):
            raise csv.Error(f"the quote is not closed before line {number}, another record")


class LikeRecords:
    """Distinguishes a swallowed record from a line of a long text: a record has as many cells as
    the header, none begins with a space (as in an enumeration), and its id has the form of the
    surrounding record's id."""

    def __init__(self, columns: int, id_at: int) -> None:
        self._columns = columns
        self._id_at = id_at

    def __call__(self, cells: list[str], others: list[str]) -> bool:
        if len(cells) != self._columns or self._columns < 2 or self._id_at >= len(others):
            return False
        ours, theirs = cells[self._id_at], others[self._id_at]
        if self._columns == 2 and ours.isalpha():
            return False  # any word with a comma would match
        return not any(cell[:1] == " " for cell in cells) and alike(ours, theirs)


def alike(one: str, other: str) -> bool:
    """Whether both have the same sequence of letters, digits and punctuation, or the same length
    with the same punctuation, as hexadecimal ids do."""
    if not one or any(character.isspace() for character in one):
        return False
    if _RUN.sub(_kind, one) == _RUN.sub(_kind, other):
        return True
    return any(map(str.isdigit, one)) and _IN_ID.sub("x", one) == _IN_ID.sub("x", other)


def _kind(run: re.Match[str]) -> str:
    return "9" if run[0].isdigit() else "a"
