"""Reads CSV as programs export it: with a line that names the delimiter, a report's lines above the
header, empty rows, trailing commas, and repeated headers from joined files.

Clear cases are handled with a note; unclear ones are a problem of the row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from runner.errors import InputError
from runner.records.csv_lines import BOM, LikeRecords, Lines, Row, alike, rows
from runner.records.rows import check_header, make_record, unwritable
from runner.types import Event, Record, Say, notice

MOST_ABOVE = 50
"""The number of rows searched for the header."""
_SEP = re.compile(r'^\ufeff?"?sep=(.)"?\1*[\r\n]*$', re.IGNORECASE)
_SPACE = "\u200b\u2060" + BOM + " \t\r\n\xa0"
"""Invisible characters around a name."""
_END = re.compile(
    r"\W*(((grand |sub)?total|summe|gesamt|count|(number of )?(rows|records|cases))\b|"
    r"(generated|exported|printed|created) (by|on|at)\b|end of (report|file)\b)",
    re.IGNORECASE,
)
"""The beginning of a line below a report's table."""


@dataclass(frozen=True, slots=True)
class Header:
    """A CSV header. ``above``: the number of rows above it."""

    line: int
    names: list[str]
    delimiter: str
    above: int


def csv_header(
    path: Path, file: Iterable[str], delimiter: str, id_column: str | None = None
) -> Header:
    """The header; without an ``id_column``, the first row near the top that is as wide as most and
    names each column."""
    lines = Lines(file)
    delimiter = _named_delimiter(lines) or delimiter
    if id_column is not None:
        return _header_with(path, lines, delimiter, id_column)
    top = list(islice(rows(lines, delimiter), MOST_ABOVE))
    widths = Counter(len(row.cells) for row in top if row.problem is None)
    # Among equally frequent widths, prefer one above 1 (not a title's), then the first.
    usual = max(widths, key=lambda width: (widths[width], width > 1), default=0)
    wide = (at for at, row in enumerate(top) if len(row.cells) >= usual and all(_names(row)))
    return _header(path, top[: next(wide, 0) + 1], delimiter)


def csv_records(
    path: Path, file: Iterable[str], id_column: str, delimiter: str, say: Say
) -> Iterator[Record]:
    """One `Record` per row. All values are text: ``00123`` stays ``00123``. ``say`` is called about
    input that was not read as written, once for each kind."""
    lines = Lines(file)
    if (named := _named_delimiter(lines)) is not None:
        said = f"{path}: its first line, `sep=`, names the delimiter and is not a record"
        say(notice(Event.ROWS_LEFT_OUT, said, line=1))
        delimiter = named
    header = _header_with(path, lines, delimiter, id_column)
    if header.above:
        said = f"{path}: the header is in line {header.line}; the lines above it are skipped"
        say(notice(Event.ROWS_LEFT_OUT, said, line=1, rows=header.above))
    like = LikeRecords(len(header.names), header.names.index(id_column))
    reading = _Reading(header.names, id_column, say)
    position = 0
    for row in rows(lines, delimiter, like):
        found = reading.fields(row)
        if found is not None:
            fields, problem = found
            yield make_record(position, row.line, fields, id_column, problem)
            position += 1


def _named_delimiter(lines: Lines) -> str | None:
    """The delimiter in a first line ``sep=;``, which Excel writes and reads."""
    first = lines.take()
    if first is None:
        return None
    if found := _SEP.match(first[1]):
        return found[1]
    lines.put_back([first])
    return None


def _header_with(path: Path, lines: Lines, delimiter: str, id_column: str) -> Header:
    """The first row or, if that lacks the id column, one below it that has more names than the rows
    above it have cells."""
    top: list[Row] = []
    for row in islice(rows(lines, delimiter), MOST_ABOVE):
        top.append(row)
        if id_column in _names(row) or row.problem is not None:
            break
    header = _header(path, top, delimiter)
    names = header.names
    least = max((sum(map(bool, _names(row))) for row in top[:-1]), default=0)
    if id_column in names and len(set(names)) == len(names) > least and all(names[:2]):
        return header
    if id_column in names and len(top) > 1:
        raise InputError(
            f"{path} has the column `{id_column}` not in its first line but in line {header.line}; "
            "if that is the header, delete the lines above it"
        )
    header = _header(path, top[:1], delimiter)
    check_header(path, header.names, id_column, header.line)
    return header


def _header(path: Path, top: list[Row], delimiter: str) -> Header:
    """The header, from the last of these rows."""
    if not top:
        raise InputError(f"{path} is empty: it has no header line")
    row = top[-1]
    if row.cells[:1] and re.match(r"\s*\{\s*\"", delimiter.join(row.cells)):
        raise InputError(
            f"{path} is JSON, not CSV; if it has one object per line, name it .jsonl, or set "
            "`records.format: jsonl`"
        )
    if row.problem is not None:
        said, told = f"the header has {row.problem.split(': ', 1)[1]}", "".join(row.cells)
        if other := next((one for one in ";\t|" if one in told and one != delimiter), None):
            shown = "tab" if other == "\t" else f'"{other}"'
            said += f"; if {shown} separates the columns, set records.delimiter"
        raise InputError(f"{path}, line {row.line}: {said}")
    for number, cell in enumerate(row.cells, start=1):
        if trouble := unwritable(cell):
            raise InputError(f"{path}, line {row.line}: {trouble} (the name of column {number})")
    return Header(row.line, _names(row), delimiter, len(top) - 1)


def _names(row: Row) -> list[str]:
    """The cells without surrounding space; several empty ones at the end are not columns."""
    names = [cell.strip(_SPACE) for cell in row.cells]
    named = len(names)
    while named and not names[named - 1]:
        named -= 1
    return names[:named] if len(names) - named > 1 else names


class _Reading:
    """Turns rows into fields; a repeated header applies to the rows below it."""

    def __init__(self, names: list[str], id_column: str, say: Say) -> None:
        self._names = names
        self._known = {name.casefold(): name for name in names}
        self._exact = len(self._known) < len(names)  # some differ only in case
        self._last_id = ""
        self._id = id_column
        self._say = say
        self._noted: set[str] = set()
        self._foreign: int | None = None

    def fields(self, row: Row) -> tuple[dict[str, str], str | None] | None:
        """(fields, problem), or None for a row that is not a record."""
        cells, names = row.cells, self._names
        if row.problem is None and not any(map(str.strip, cells)):
            self._once("empty", f"line {row.line} has only empty cells; such rows are skipped", row)
            return None
        named = cells[0].strip(_SPACE).casefold() in self._known or self._id in cells
        if row.problem is None and named and self._another_header(row):
            return None
        if len(cells) > len(names) and not any(map(str.strip, cells[len(names) :])):
            cells = cells[: len(names)]
        if len(cells) == len(names) - 1 and not names[-1]:
            cells = [*cells, ""]  # the header ends in a comma
        problem = row.problem
        if problem is None and len(cells) != len(names):
            problem = f"line {row.line}: {_told(cells, len(names))}"
        if problem is None and self._ends(cells):
            problem = (
                f"line {row.line}: it looks like the end of a report; delete the line, or give it "
                "an id like those of the records"
            )
        if problem is None and self._foreign is not None:
            problem = (
                f"line {row.line}: it belongs to other columns, those of line {self._foreign}; "
                "split the file there into two files"
            )
        return dict(zip(names, cells, strict=False)), problem

    def _another_header(self, row: Row) -> bool:
        """Whether it is a repeated header, as in joined files; it then applies to the rows below. A
        header with other columns makes itself and the rows below it a problem."""
        again = _names(row)
        if not self._exact:
            again = [self._known.get(name.casefold(), name) for name in again]
        known = sum(name in self._names for name in again)
        if sorted(again) == sorted(self._names):
            self._names, self._foreign = again, None
            self._once("header", f"line {row.line} repeats the header and is not a record", row)
            return True
        if known >= 2 and known * 2 >= len(again):
            self._foreign = row.line
        return False

    def _ends(self, cells: list[str]) -> bool:
        """Whether it is the last line of a report, such as a total, and not a record."""
        own, before = cells[self._names.index(self._id)], self._last_id
        ends = bool(before and _END.match(cells[0]) and not alike(own, before))
        self._last_id = before if ends else own
        return ends

    def _once(self, kind: str, text: str, row: Row) -> None:
        if kind not in self._noted:
            self._noted.add(kind)
            self._say(notice(Event.ROWS_LEFT_OUT, text, line=row.line))


def _told(cells: list[str], columns: int) -> str:
    found = f"{len(cells)} columns, but the header has {columns}"
    if len(cells) > columns:
        spaced = any(cell.startswith(' "') for cell in cells)
        also = ", and leave no space before a quote" if spaced else ""
        return f"{found}; quote values that contain a delimiter{also}"
    return (
        f"{found}; quote values that contain a line break, or delete the line if it is not a "
        "record (such as the end of a report)"
    )
