"""The audit trail: an entry for each write, chained to the previous entry by hash.

An entry holds the SHA-256 of its row as it was written then, and of itself together with the
former entry's. So `runner.ledger.proof` finds whatever was changed, put in or taken out later. It
is in the transaction of what it speaks of: neither ever stands alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.errors import RunFailed
from runner.formats.json_text import compact

OUTCOME, CALL, AUDIT, REVIEW, META = "outcome", "call", "audit", "review", "meta"
BATCH = "batch"
ROWS = {
    # Not `waits_for`: why a waiting record was not sent yet is no more than a notice.
    OUTCOME: (
        "o.position, o.record_id, o.digest, o.status, o.value, o.decided_by, o.reason, "
        "o.confidence, o.field_confidence, o.model, o.cost, o.error, o.closed_estimate, h.line, "
        "h.fields, h.answer, h.expected_loss, o.words",
        "outcomes o LEFT JOIN held h USING (position)",
        "o.position",
    ),
    CALL: ("*", "attempts", "id"),
    AUDIT: ("*", "audits", "position"),
    REVIEW: ("*", "reviews", "rowid"),
    META: ("*", "meta", "key"),
    BATCH: ("*", "batches", "id"),
}
"""Kind of entry → the columns that it speaks of, where they are, and by which key."""
CONTENT_BYTES = 16
START = b"\0" * 32
FLUSH_EVERY = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """``ref``: the row's key, where that is not the record's position. ``note``: JSON of what the
    row does not say. ``content`` is None where the row was taken out."""

    seq: int
    at: float
    kind: str
    position: int | None
    ref: int | str | None
    note: str | None
    content: bytes | None
    hash: bytes

    @property
    def key(self) -> int | str | None:
        return self.position if self.ref is None else self.ref

    def chained(self, former: bytes) -> bytes:
        """The hash that it has behind an entry of this hash."""
        return _chained(former, self.seq, self.at, self.kind, self.position, self.ref, self.note,
                        self.content)  # fmt: skip


def content_of(kind: str, row: Sequence[Any]) -> bytes:
    """A row's values, in the order of `ROWS`, as an entry holds them. An outcome's ``words`` count
    where there are any: ledgers that had no such column yet are proved by the same hashes."""
    if kind == OUTCOME and row[-1] is None:
        row = row[:-1]
    return hashlib.sha256(compact(row).encode()).digest()[:CONTENT_BYTES]


def _chained(former: bytes, *values: Any) -> bytes:
    *plain, content = values
    text = compact([*plain, None if content is None else content.hex()])
    return hashlib.sha256(former + text.encode()).digest()


class _Writing:
    """Not by `contextlib`: every record passes here more than once."""

    def __init__(self, trail: Trail, where: Path) -> None:
        self._trail = trail
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        self._trail.undo()
        if isinstance(error, sqlite3.OperationalError):
            raise RunFailed(
                f"cannot write to {self._where}: {error}; what was recorded before is kept: make "
                "room there and run the same command again"
            ) from None


class Trail:
    """The ``trail`` table. Entries are kept back for a moment, since many at once cost less; the
    ledger writes them before it commits."""

    def __init__(self, connection: sqlite3.Connection, where: Path) -> None:
        self._db = connection
        self._kept: list[tuple[Any, ...]] = []
        self._last: tuple[int, bytes] | None = None
        self._writing = _Writing(self, where)

    def writing(self) -> _Writing:
        """Turns a failed write (a full disk, most likely) into the sentence a person needs."""
        return self._writing

    def undo(self) -> None:
        """Discards all uncommitted writes. SQLite may have undone the transaction or only the
        statement: all or nothing, or else an entry could be left without its row."""
        self._db.rollback()
        self._kept, self._last = [], None

    def mark(self) -> Callable[[], None]:
        """What takes the entries back to as they are now, where their rows are taken back too."""
        kept, last = list(self._kept), self._last

        def back() -> None:
            self._kept, self._last = kept, last

        return back

    def add(
        self,
        kind: str,
        position: int | None,
        row: Sequence[Any] | None,
        *,
        ref: int | str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Enters a row as it was just written: None for one that was taken out."""
        seq, former = self._last or self._read_last()
        text = compact(note) if note else None
        content = None if row is None else content_of(kind, row)
        values = (seq + 1, time.time(), kind, position, ref, text, content)
        self._last = (seq + 1, _chained(former, *values))
        self._kept.append((*values, self._last[1]))
        if len(self._kept) >= FLUSH_EVERY:
            self.flush()

    def add_written(
        self,
        kind: str,
        position: int | None,
        *,
        ref: int | str | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """The same, the row read back from its table."""
        row = row_of(self._db, kind, position if ref is None else ref)
        self.add(kind, position, row, ref=ref, note=note)

    def flush(self) -> None:
        """Writes the entries kept back; part of the open transaction."""
        if self._kept:
            self._db.executemany("INSERT INTO trail VALUES (?,?,?,?,?,?,?,?)", self._kept)
            self._kept = []

    def head(self) -> tuple[int, str]:
        """(number of entries, the last one's hash): noted elsewhere, it proves all before it."""
        seq, last = self._last or self._read_last()
        return seq, last.hex()

    def of(self, position: int) -> list[Entry]:
        """A record's entries, oldest first."""
        rows = self._db.execute("SELECT * FROM trail WHERE position=? ORDER BY seq", (position,))
        return [Entry(*row) for row in rows]

    def notes(self, kind: str) -> Iterator[tuple[int, str]]:
        """(record's position, note) of every entry of a kind that has one, in input order, then
        oldest first; streamed."""
        yield from self._db.execute(
            "SELECT position, note FROM trail WHERE kind=? AND note IS NOT NULL "
            "ORDER BY position, seq",
            (kind,),
        )

    def latest(self, kind: str, holds: str) -> Iterator[str]:
        """The notes of a kind's entries that hold this text, the last entry's first; streamed."""
        rows = self._db.execute(
            "SELECT note FROM trail WHERE kind=? AND instr(note, ?) ORDER BY seq DESC",
            (kind, holds),
        )
        return (note for (note,) in rows)

    def begun_at(self) -> float | None:
        """When the first entry was made, in seconds since 1970; None where none is."""
        row = self._db.execute("SELECT at FROM trail ORDER BY seq LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def last_at(self) -> float | None:
        """When the last entry was made, in seconds since 1970; None where none is."""
        row = self._db.execute("SELECT at FROM trail ORDER BY seq DESC LIMIT 1").fetchone()
        return None if row is None else float(row[0])

    def last(self, kind: str) -> int:
        """The number of the last entry of this kind; 0 where none is."""
        row = self._db.execute(
            "SELECT seq FROM trail WHERE kind=? ORDER BY seq DESC LIMIT 1", (kind,)
        ).fetchone()
        return row[0] if row else 0

    def _read_last(self) -> tuple[int, bytes]:
        row = self._db.execute("SELECT seq, hash FROM trail ORDER BY seq DESC LIMIT 1").fetchone()
        self._last = (row[0], row[1]) if row else (0, START)
        return self._last


def row_of(database: sqlite3.Connection, kind: str, key: int | str | None) -> Sequence[Any] | None:
    """The row that entries of this kind and key speak of, as it stands."""
    columns, source, name = ROWS[kind]
    select = f"SELECT {columns} FROM {source} WHERE {name}=?"
    row: Sequence[Any] | None = database.execute(select, (key,)).fetchone()
    return row


def moment(at: float) -> str:
    """Formats a time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
