"""Outcomes, and the records that are not done yet."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.formats.json_text import compact, read_compact
from runner.formats.typed_json import read, written
from runner.ledger.answers import Answers
from runner.ledger.attempts import Attempts
from runner.ledger.audits import Audits
from runner.ledger.batches import IN_BATCH, Batches
from runner.ledger.bills import Bills
from runner.ledger.columns import columns, read_reason, real, was
from runner.ledger.kept import Held as Held
from runner.ledger.kept import Known as Known
from runner.ledger.meta import Meta
from runner.ledger.money import from_pico
from runner.ledger.places import Places
from runner.ledger.proof import Proof, prove
from runner.ledger.queue import Queue
from runner.ledger.reading import Reading
from runner.ledger.reviews import Reviews
from runner.ledger.trail import OUTCOME, Trail
from runner.types import DecidedBy, Outcome, Reason, Record, Status

# A commit writes every page of the index of ids that was touched, and ids come in no order: the
# rarer, the cheaper a row. It is the time that says how much of the free work a crash takes.
COMMIT_EVERY_ROWS = 5000
COMMIT_EVERY_S = 0.5
PAGE = 512
_WAITS_HERE = "o.status = 'waiting' AND o.position NOT IN (SELECT position FROM gone)"
_STATUS = {str(one): one for one in Status}
_DECIDED_BY: dict[str | None, DecidedBy | None] = {None: None, **{str(d): d for d in DecidedBy}}


class Ledger(Queue):
    """Open by `open_ledger`. All methods belong to the thread that opened it."""

    def __init__(self, connection: sqlite3.Connection, where: Path) -> None:
        self._db = connection
        self.folder = where
        self._pending = 0
        self._committed_at = time.monotonic()
        self.trail = Trail(connection, where)
        self.meta = Meta(connection, self.trail, self.commit)
        self.attempts = Attempts(connection, self.trail, self.commit)
        self.batches = Batches(connection, self.trail, self.attempts, self.commit)
        self.audits = Audits(connection, self.trail)
        self.reviews = Reviews(connection, self.trail)
        self.reading = Reading(connection)
        self.answers = Answers(connection)
        self.bills = Bills(connection)
        self._former = self.next_position() - 1
        self.places = Places(connection, self.commit)
        self._page: dict[int, tuple[str, str, str, int, str | None]] = {}
        self._page_end = self._asked = 0

    # -- outcomes ---------------------------------------------------------------------------

    def known(self, position: int) -> Known | None:
        """What a former run recorded at this input position."""
        if position > self._former:
            return None
        inside = self._page_end - PAGE <= position < self._page_end
        # A run that goes on asks for each position in turn, but where the file was sorted anew.
        if not inside and 0 <= position - self._asked <= 1:
            self._page, self._page_end = self._knowns(position, PAGE), position + PAGE
        self._asked = position
        row = self._page.get(position) or self._knowns(position, 1).get(position)
        return Known(row[0], row[1], Status(row[2]), bool(row[3]), row[4]) if row else None

    def _knowns(self, first: int, count: int) -> dict[int, tuple[str, str, str, int, str | None]]:
        rows = self._db.execute(
            "SELECT o.position, o.record_id, o.digest, o.status, "
            "o.reason IN ('teacher', 'redaction_failed') OR EXISTS "
            "(SELECT 1 FROM attempts a WHERE a.position = o.position AND o.status = 'review'), "
            "CASE WHEN o.reason = 'bad_record' THEN o.error END "
            "FROM outcomes o WHERE o.position >= ? AND o.position < ?",
            (first, first + count),
        )
        return {row[0]: row[1:] for row in rows}

    def next_position(self) -> int:
        """Behind all records that were ever recorded: 0 where none was."""
        (last,) = self._db.execute("SELECT MAX(position) FROM outcomes").fetchone()
        return 0 if last is None else int(last) + 1

    def forget(self, position: int) -> None:
        """Deletes an outcome, so that its position can be recorded again."""
        self._page.pop(position, None)
        with self.trail.writing():
            self._db.execute("DELETE FROM outcomes WHERE position = ?", (position,))
            self.trail.add(OUTCOME, position, None)

    def is_double(self, record_id: str, position: int) -> bool:
        """Whether another record of the file has the same id, and goes before this one."""
        double = self.places.is_double(record_id, position)
        if double is not None:
            return double
        row = self._db.execute(
            "SELECT 1 FROM outcomes WHERE record_id = ? AND position < ? LIMIT 1",
            (record_id, position),
        ).fetchone()
        return row is not None

    def put(
        self,
        outcome: Outcome,
        digest: str,
        *,
        held: Record | None = None,
        answer: Any = None,
        waits_for: str | None = None,
        expected_loss: float | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Records an outcome; ``held`` keeps the record itself for a later escalation, ``note`` is
        for its trail."""
        values = columns(outcome)
        start = (outcome.position, outcome.record_id, digest, *values[:4])
        kept: tuple[Any, ...] = (None,) * 4
        if held is not None:
            kept = (held.line, written(held.fields), compact(answer), real(expected_loss))
        with self.trail.writing():
            self._db.execute(
                "INSERT INTO outcomes VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (*start, waits_for, *values[4:]),
            )
            if held is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO held VALUES (?,?,?,?,?)", (held.position, *kept)
                )
            row = (*start, *values[4:-1], *kept, outcome.words)
            self.trail.add(OUTCOME, outcome.position, row, note=note)
        self._pending += 1
        late = time.monotonic() - self._committed_at > COMMIT_EVERY_S
        if self._pending >= COMMIT_EVERY_ROWS or late:
            self.commit()

    def change(self, outcome: Outcome, *, waits_for: str | None = None) -> None:
        """Replaces the outcome at its position; uncommitted until the next `commit`."""
        position, values = outcome.position, columns(outcome)
        self._page.pop(position, None)
        with self.trail.writing():
            former = self._db.execute(
                "SELECT status, COALESCE(words, reason), decided_by, value FROM outcomes "
                "WHERE position=?",
                (position,),
            ).fetchone()
            self._db.execute(
                "UPDATE outcomes SET status=?, value=?, decided_by=?, reason=?, waits_for=?, "
                "confidence=?, field_confidence=?, model=?, cost=?, error=?, closed_estimate=?, "
                "words=? WHERE position=?",
                (*values[:4], waits_for, *values[4:], position),
            )
            if outcome.status is Status.DONE:
                self._db.execute("DELETE FROM held WHERE position = ?", (position,))
            self.trail.add_written(OUTCOME, position, note=was(former))

    def waiting(self, reason: Reason, after: int, limit: int) -> list[Held]:
        """Records that wait for this reason, behind a position, in input order; but none that is
        in a batch."""
        where = f"o.reason=? AND o.waits_for IS NOT ? AND o.position>? AND {_WAITS_HERE}"
        return self._held(where, "LIMIT ?", (reason, IN_BATCH, after, limit))

    def take_waiting(self, limit: int) -> list[Held]:
        """The first ready records in input order; each is given out once."""
        taken = self._held(f"o.waits_for IS NULL AND {_WAITS_HERE}", "LIMIT ?", (limit,))
        for held in taken:
            self.set_waits_for(held.record.position, "sending")
        return taken

    def held(self, position: int) -> Held | None:
        """The record waiting at this position, if one does."""
        found = self._held("o.status='waiting' AND o.position=?", "", (position,))
        return found[0] if found else None

    def _held(self, where: str, limit: str, values: Sequence[Any]) -> list[Held]:
        rows = self._db.execute(
            "SELECT o.position, o.record_id, h.line, h.fields, o.reason, o.confidence, "
            "o.field_confidence, o.closed_estimate, h.answer, o.words "
            "FROM outcomes o JOIN held h USING (position) "
            f"WHERE {where} ORDER BY o.position {limit}",
            values,
        )
        return [
            Held(
                Record(p, i, read(f), line), reason or Reason.RULE, c, json.loads(fc),
                from_pico(e), json.loads(local) if local else None, own,
            )
            for p, i, line, f, why, c, fc, e, local, words in rows
            for reason, own in [read_reason(why, words)]
        ]  # fmt: skip

    def outcomes(self) -> Iterator[Outcome]:
        """The outcome of every record of the file that was given last, in its order, streamed."""
        for first, behind in self.places.ranges():
            where = "WHERE position >= ? AND position < ? ORDER BY position"
            yield from self._outcomes(where, first, behind)

    def find(self, record_id: str) -> Outcome | None:
        """The outcome of the record with this id: of several, one of the file that was given last,
        and no error."""
        order = "position IN (SELECT position FROM gone), status = 'error', position"
        return next(self._outcomes(f"WHERE record_id=? ORDER BY {order} LIMIT 1", record_id), None)

    def _outcomes(self, which: str, *values: Any) -> Iterator[Outcome]:
        rows = self._db.execute(
            "SELECT position, record_id, status, value, decided_by, reason, confidence, "
            "field_confidence, model, cost, error, closed_estimate, words "
            f"FROM outcomes {which}",
            values,
        )
        for p, i, status, value, by, why, c, fc, model, cost, error, estimate, words in rows:
            reason, own = read_reason(why, words, by)
            yield Outcome(
                p, i, _STATUS[status], read_compact(value), _DECIDED_BY[by], reason, c,
                read_compact(fc) if fc != "{}" else {}, model, from_pico(cost), error,
                from_pico(estimate), own,
            )  # fmt: skip

    # -- the whole --------------------------------------------------------------------------

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Gives a reader one snapshot: a run's writes in the meantime are not seen."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.rollback()

    def prove(self, noted: str | None = None) -> Proof:
        """For a reader: whether everything is as it was written."""
        with self.one_moment():
            return prove(self._db, noted)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written within, or, where something raises, none of it; uncommitted until
        the next `commit`."""
        with self.trail.writing():
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            self._db.execute("SAVEPOINT together")
        undo = self.trail.mark()
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # else all of it is undone already
                self._db.execute("ROLLBACK TO together")
                undo()
            raise
        finally:
            if self._db.in_transaction:
                self._db.execute("RELEASE together")

    def commit(self) -> None:
        with self.trail.writing():
            self.trail.flush()
            self._db.commit()
        self._pending = 0
        self._committed_at = time.monotonic()
