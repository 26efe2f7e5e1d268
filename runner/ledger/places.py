"""The records of the most recently given file, and their order.

A record is its id and what it holds. The ledger knows it by a *position* of its own, which it got
when it was first seen and keeps for ever: what was paid for it, its trail, its audits all go by
that. Where the file is still the first one, with rows at most added at its end, a record's position
is its place there, and nothing is kept here. Else ``places`` has the order, in stretches of
positions that follow each other, and ``gone`` the positions whose records the file has no longer.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from runner.errors import RunDirError
from runner.types import Record

SCHEMA = """
CREATE TABLE places (place INTEGER PRIMARY KEY, position INTEGER NOT NULL, length INTEGER NOT NULL);
CREATE TABLE gone (position INTEGER PRIMARY KEY);
CREATE VIEW present AS
  SELECT * FROM outcomes WHERE position NOT IN (SELECT position FROM gone);
"""
_GIVEN = """
CREATE TEMP TABLE given (
  place INTEGER PRIMARY KEY, record_id TEXT NOT NULL, digest TEXT NOT NULL, position INTEGER);
CREATE INDEX given_by_id ON given (record_id, digest);
"""
_CHUNK = 2000
_SAME = "(o.digest = g.digest AND o.record_id = g.record_id)"
Digest = Callable[[Record], str]


@dataclass(frozen=True, slots=True)
class Change:
    """A file against what a run directory knows. ``decided``: how many of its records' outcomes are
    no errors; ``kept``: how many of these the file still has."""

    known: int
    new: int
    changed: int
    gone: int
    decided: int
    kept: int

    def __str__(self) -> str:
        said = f"{self.known:,} records are known, {self.new:,} are new"
        return f"{said}, {self.changed:,} have changed, {self.gone:,} are gone"

    def check(self, where: object) -> None:
        """Raises `RunDirError` where it looks like another file than the one of before."""
        if self.kept * 2 >= self.decided:
            return
        raise RunDirError(
            f"of the {self.decided:,} records that {where} has decided, only {self.kept:,} are as "
            f"they were ({self}); if these are the right records, add --new-records, else take a "
            "new --run-dir: nothing was sent"
        )


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Records ``place`` to ``place + length`` have the positions from ``position`` on."""

    place: int
    position: int
    length: int


class Places:
    """The ``places`` and ``gone`` tables."""

    def __init__(self, connection: sqlite3.Connection, commit: Callable[[], None]) -> None:
        self._db = connection
        self._commit = commit
        self._stretches = [
            _Stretch(*row)
            for row in connection.execute(
                "SELECT place, position, length FROM places ORDER BY place"
            )
        ]
        self._starts = [each.place for each in self._stretches]
        self._compared = False

    def position(self, place: int) -> int:
        """Of the record at this place of the file."""
        if not self._stretches:
            return place
        stretch = self._stretches[max(0, bisect_right(self._starts, place) - 1)]
        return stretch.position + place - stretch.place

    @property
    def sorted_anew(self) -> bool:
        """Whether the file's order may be another than that of the positions."""
        return bool(self._stretches)

    def numbered(self, records: Iterable[Record]) -> Iterator[Record]:
        """The file's records, each with its position instead of its place."""
        if not self._stretches:
            yield from records
            return
        for record in records:
            yield replace(record, position=self.position(record.position))

    def gone(self) -> int:
        """How many records that were given once, and decided, are no longer."""
        (count,) = self._one(
            "SELECT COUNT(*) FROM gone JOIN outcomes USING (position) WHERE status != 'error'"
        )
        return count

    def _any_gone(self) -> bool:
        return self._one("SELECT COUNT(*) FROM gone") != (0,)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first, behind the last) of the positions, in the file's order."""
        if not self._stretches and not self._any_gone():
            yield 0, 1 << 62
        for each in self._stretches:
            yield each.position, each.position + each.length

    def is_double(self, record_id: str, position: int) -> bool | None:
        """Whether another record of the file has this id and goes before the one here: it stands
        earlier, or is decided already. None where the file was not compared."""
        if not self._compared:
            return None
        found = self._db.execute(
            "SELECT 1 FROM given g JOIN given me ON me.position = ? LEFT JOIN outcomes o "
            "ON o.position = g.position WHERE g.record_id = ? AND g.place != me.place AND "
            "(g.place < me.place OR o.status != 'error') LIMIT 1",
            (position, record_id),
        )
        return found.fetchone() is not None

    def take(self, records: Callable[[], Iterable[Record]], digest: Digest) -> Change | None:
        """Compares the file's records with those of the ledger, before any of them is worked on;
        nothing is kept of it until `keep`. None where there is nothing yet to compare with."""
        (decided,) = self._one("SELECT COUNT(*) FROM present WHERE status != 'error'")
        (total,) = self._one("SELECT COUNT(*) FROM present")
        if not total and not self._any_gone():
            return None
        if not self._stretches:
            same = self._as_before(records(), digest)
            if same is not None:
                known, fixed, count = same
                return Change(known, count - known - fixed, fixed, 0, decided, decided)
        self._fill(records(), digest)
        self._match()
        return self._change(decided)

    def _one(self, sql: str) -> tuple[int, ...]:
        row: tuple[int, ...] = self._db.execute(sql).fetchone()
        return row

    def _as_before(self, records: Iterable[Record], digest: Digest) -> tuple[int, int, int] | None:
        """(how many of the records are known, how many were in error and have changed, how many
        there are); None where any other record of before is not at its first place."""
        rows, known, fixed, place = iter(records), 0, 0, 0
        while chunk := list(islice(rows, _CHUNK)):
            found = self._outcomes(place, place + len(chunk))
            for at, record in enumerate(chunk, start=place):
                if at not in found:
                    continue
                name, mark, in_error = found[at]
                if (name, mark) == (record.id, digest(record)):
                    known += 1
                elif name == record.id and in_error:
                    fixed += 1
                else:
                    return None
            place += len(chunk)
        (present,) = self._one("SELECT COUNT(*) FROM present")
        return (known, fixed, place) if known + fixed == present else None

    def _outcomes(self, first: int, behind: int) -> dict[int, tuple[str, str, bool]]:
        rows = self._db.execute(
            "SELECT position, record_id, digest, status = 'error' FROM outcomes "
            "WHERE position >= ? AND position < ?",
            (first, behind),
        )
        return {position: (name, mark, bool(error)) for position, name, mark, error in rows}

    def _fill(self, records: Iterable[Record], digest: Digest) -> None:
        self._db.executescript(f"DROP TABLE IF EXISTS temp.given;{_GIVEN}")
        rows = ((r.position, r.id, digest(r), None) for r in records)
        while chunk := list(islice(rows, _CHUNK)):
            self._db.executemany("INSERT INTO given VALUES (?,?,?,?)", chunk)

    def _match(self) -> None:
        """Gives each record its position: that of the same record, of several equal ones in their
        order; else that of a former one of its id which was in error, and goes on with its history;
        a new one's is its place where that is free, else the next behind all others."""
        self._db.execute(
            "WITH mine AS (SELECT place, record_id, digest, ROW_NUMBER() OVER "
            "(PARTITION BY record_id, digest ORDER BY place) AS nth FROM given), "
            "theirs AS (SELECT position, record_id, digest, ROW_NUMBER() OVER "
            "(PARTITION BY record_id, digest ORDER BY position) AS nth FROM outcomes) "
            "UPDATE given SET position = pair.position FROM (SELECT place, position FROM mine "
            "JOIN theirs USING (record_id, digest, nth)) AS pair WHERE given.place = pair.place"
        )
        self._db.execute(
            "UPDATE given SET position = (SELECT o.position FROM outcomes o WHERE "
            "o.record_id = given.record_id AND o.status = 'error' AND o.position NOT IN "
            "(SELECT position FROM given WHERE position IS NOT NULL) ORDER BY o.position LIMIT 1) "
            "WHERE position IS NULL AND place = (SELECT MIN(place) FROM given other WHERE "
            "other.record_id = given.record_id AND other.position IS NULL)"
        )
        self._db.execute(
            "UPDATE given SET position = place WHERE position IS NULL AND place NOT IN "
            "(SELECT position FROM outcomes UNION SELECT position FROM attempts)"
        )
        following = 1 + max(
            self._one("SELECT COALESCE(MAX(position), -1) FROM outcomes")[0],
            self._one("SELECT COALESCE(MAX(position), -1) FROM attempts")[0],
            self._one("SELECT COALESCE(MAX(place), -1) FROM given")[0],
        )
        self._db.execute(
            "UPDATE given SET position = ? + new.nth FROM (SELECT place, ROW_NUMBER() OVER "
            "(ORDER BY place) - 1 AS nth FROM given WHERE position IS NULL) AS new "
            "WHERE given.place = new.place",
            (following,),
        )

    def _change(self, decided: int) -> Change:
        given = "FROM given g LEFT JOIN outcomes o ON o.position = g.position"
        (count, known) = self._one(f"SELECT COUNT(*), COUNT(*) FILTER (WHERE {_SAME}) {given}")
        missing = "FROM present WHERE position NOT IN (SELECT position FROM given)"
        (lost,) = self._one(f"SELECT COUNT(*) {missing} AND status != 'error'")
        (changed,) = self._one(
            f"SELECT COUNT(*) {given} WHERE NOT COALESCE({_SAME}, 0) AND (o.position NOTNULL "
            f"OR g.record_id IN (SELECT record_id {missing}))"
        )
        (gone,) = self._one(
            f"SELECT COUNT(*) {missing} AND record_id NOT IN (SELECT record_id FROM given)"
        )
        return Change(known, count - known - changed, changed, gone, decided, decided - lost)

    def keep(self) -> None:
        """Makes the compared file the current one, whose results are written."""
        if not self._db.execute("SELECT 1 FROM temp.sqlite_master WHERE name='given'").fetchone():
            return
        self._stretches = list(_stretches(self._db.execute(
            "SELECT place, position FROM given ORDER BY place"
        )))  # fmt: skip
        self._starts = [each.place for each in self._stretches]
        self._compared = True
        self._db.execute("DELETE FROM places")
        self._db.executemany(
            "INSERT INTO places VALUES (?,?,?)",
            ((each.place, each.position, each.length) for each in self._stretches),
        )
        self._db.execute("DELETE FROM gone")
        self._db.execute(
            "INSERT INTO gone SELECT position FROM outcomes "
            "WHERE position NOT IN (SELECT position FROM given)"
        )
        self._db.execute("CREATE INDEX temp.given_by_position ON given (position)")
        self._commit()


def _stretches(rows: Iterable[Sequence[int]]) -> Iterator[_Stretch]:
    begun: _Stretch | None = None
    for place, position in rows:
        if begun is not None and position == begun.position + begun.length:
            begun = replace(begun, length=begun.length + 1)
            continue
        if begun is not None:
            yield begun
        begun = _Stretch(place, position, 1)
    if begun is not None:
        yield begun
