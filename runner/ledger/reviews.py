"""People's decisions, who made them and when, and the records that wait for one."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass

from runner.formats.json_text import compact
from runner.formats.typed_json import read
from runner.ledger.columns import shown_reason
from runner.ledger.trail import OUTCOME, REVIEW, Trail
from runner.types import DecidedBy, JSONValue, Outcome, Reason, Record, Status


@dataclass(frozen=True, slots=True)
class Queued:
    """A record in review. ``local`` and ``closed``: what the models answered, where they did and
    it is known; ``problem``: what was wrong with the last of these answers."""

    record: Record
    reason: Reason | str
    problem: str | None
    confidence: float | None
    local: JSONValue
    closed: JSONValue


@dataclass(frozen=True, slots=True)
class Review:
    """A decision, who made it, and what they noted."""

    who: str
    value: JSONValue
    note: str


class Reviews:
    """The ``reviews`` table: all decisions, of which the last counts; none is ever deleted."""

    def __init__(self, connection: sqlite3.Connection, trail: Trail) -> None:
        self._db = connection
        self._trail = trail

    def add(self, outcome: Outcome, who: str, value: JSONValue, note: str) -> None:
        """Writes a decision down. Uncommitted until the ledger's next `commit`."""
        with self._trail.writing():
            cursor = self._db.execute(
                "INSERT INTO reviews VALUES (?,?,?,?,?,?)",
                (outcome.position, outcome.record_id, who, time.time(), compact(value), note),
            )
            self._trail.add_written(REVIEW, outcome.position, ref=cursor.lastrowid)

    def last(self, position: int) -> tuple[JSONValue, str] | None:
        """(value, note) of the last decision on a record."""
        row = self._db.execute(
            "SELECT value, note FROM reviews WHERE position = ? ORDER BY rowid DESC LIMIT 1",
            (position,),
        ).fetchone()
        return (json.loads(row[0]), row[1]) if row else None

    def at(self, row: int | str | None) -> Review | None:
        """The decision that an entry of the trail speaks of, by that entry's ``ref``."""
        found = self._db.execute(
            "SELECT who, value, note FROM reviews WHERE rowid=?", (row,)
        ).fetchone()
        return Review(found[0], json.loads(found[1]), found[2]) if found else None

    def keep_closed(self, position: int, value: JSONValue) -> None:
        """Keeps the closed model's unusable answer for the person who decides instead of it."""
        row = self._db.execute("SELECT answer FROM held WHERE position = ?", (position,)).fetchone()
        if row is None:
            return  # decided without a person
        kept = {**(json.loads(row[0] or "null") or {}), "closed": value}
        with self._trail.writing():
            self._db.execute(
                "UPDATE held SET answer = ? WHERE position = ?", (compact(kept), position)
            )
            self._trail.add_written(OUTCOME, position)

    def queue(self) -> Iterator[Queued]:
        """The records in review, in input order, streamed."""
        rows = self._db.execute(
            "SELECT o.position, o.record_id, h.line, h.fields, o.reason, o.words, o.error, "
            "o.confidence, h.answer FROM present o JOIN held h USING (position) "
            "WHERE o.status = ? ORDER BY o.position",
            (Status.REVIEW,),
        )
        for p, i, line, fields, why, words, problem, confidence, answer in rows:
            reason = shown_reason(why, words)
            kept = json.loads(answer or "null") or {}
            record = Record(p, i, read(fields), line)
            yield Queued(record, reason, problem, confidence, kept.get("value"), kept.get("closed"))

    def unaudited(self) -> Iterator[tuple[int, str]]:
        """(position, id) of the accepted local answers that nobody checked yet."""
        rows: Iterator[tuple[int, str]] = self._db.execute(
            "SELECT position, record_id FROM present WHERE status = ? AND decided_by = ? "
            "AND position NOT IN (SELECT position FROM audits) ORDER BY position",
            (Status.DONE, DecidedBy.LOCAL),
        )
        return rows

    def audited_value(self, position: int) -> tuple[JSONValue, int] | None:
        """The local answer that was audited before, whatever stands now, and the alarms raised
        when it was accepted."""
        row = self._db.execute(
            "SELECT local_value, alarms FROM audits WHERE position = ?", (position,)
        ).fetchone()
        return (json.loads(row[0]), row[1]) if row else None
