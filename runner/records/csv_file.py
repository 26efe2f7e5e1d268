"""CSV by the standard library's strict parser, fed one record's lines at a time.

Fed a whole file, that parser turns one unclosed quote into the loss of everything after it. So
each record's physical lines are gathered by counting quotes; where they do not parse, the first
line alone is the bad record and reading goes on with the next.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.errors import InputError
from runner.records.rows import check_header, make_record, unwritable
from runner.types import Record

# A quoted field may hold a pasted thread of many lines; past this it is an unclosed quote.
MOST_LINES = 20_000
csv.field_size_limit(1 << 30)


class _Lines:
    """Physical lines with their numbers, and a way to put some back."""

    def __init__(self, source: Iterable[str]) -> None:
        self._source = enumerate(source, start=1)
        self._back: deque[tuple[int, str]] = deque()

    def take(self) -> tuple[int, str] | None:
        return self._back.popleft() if self._back else next(self._source, None)

    def put_back(self, lines: list[tuple[int, str]]) -> None:
        self._back.extendleft(reversed(lines))


def _parse(lines: Iterable[str], delimiter: str) -> list[str]:
    rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    if len(rows) != 1:
        raise csv.Error("a quoted value ends in another record")
    return rows[0]


def _rows(lines: _Lines, delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yields (line, cells, problem); with a problem, whatever cells were legible."""
    while (first := lines.take()) is not None:
        number, text = first
        if not text.strip("\r\n"):
            continue
        try:
            yield number, _parse((text,), delimiter), None
            continue
        except csv.Error:
            gathered, quotes = [first], text.count('"')
        while quotes % 2 and len(gathered) < MOST_LINES and (more := lines.take()) is not None:
            gathered.append(more)
            quotes += more[1].count('"')
        try:
            yield number, _parse([text for _, text in gathered], delimiter), None
        except csv.Error as error:
            lines.put_back(gathered[1:])
            cells = [cell.strip('"') for cell in text.rstrip("\r\n").split(delimiter)]
            yield number, cells, f"line {number}: broken CSV quoting ({error}); double each quote"


def _header(path: Path, lines: _Lines, delimiter: str) -> list[str]:
    for line, cells, problem in _rows(lines, delimiter):
        if problem:
            said, told = f"the header has {problem.split(': ', 1)[1]}", "".join(cells)
            if other := next((one for one in ";\t|" if one in told and one != delimiter), None):
                said += f"; if {json.dumps(other)} parts the columns: records.delimiter"
            raise InputError(f"{path}, line {line}: {said}")
        for number, cell in enumerate(cells, start=1):
            if trouble := unwritable(cell):
                raise InputError(f"{path}, line {line}: {trouble} (the name of column {number})")
        return [cell.strip() for cell in cells]
    raise InputError(f"{path} is empty: it has no header line")


def csv_header(path: Path, file: Iterable[str], delimiter: str) -> list[str]:
    """The column names, stripped of spaces around them."""
    return _header(path, _Lines(file), delimiter)


def csv_records(
    path: Path, file: Iterable[str], id_column: str, delimiter: str
) -> Iterator[Record]:
    """One `Record` per row. All values are text: ``00123`` stays ``00123``."""
    lines = _Lines(file)
    header = _header(path, lines, delimiter)
    check_header(path, header, id_column)
    for position, (line, cells, trouble) in enumerate(_rows(lines, delimiter)):
        problem = trouble
        if problem is None and len(cells) != len(header):
            problem = (
                f"line {line}: {len(cells)} columns where the header has {len(header)}; "
                "quote values that hold a delimiter"
            )
        fields = dict(zip(header, cells, strict=False))
        yield make_record(position, line, fields, id_column, problem)
