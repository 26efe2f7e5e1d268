"""Audits of accepted answers, and who judged them."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass

from runner.ledger.trail import AUDIT, Trail
from runner.types import JSONValue, Record


@dataclass(frozen=True, slots=True)
class Checks:
    """How many accepted answers were checked, and how many of these were wrong."""

    checked: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """``value``: what the judge says instead of the local answer, or as well."""

    judge: str
    value: JSONValue
    wrong: bool


class Audits:
    """The ``audits`` table: at most one verdict a record, the last. ``alarms``: how many the audit
    had raised when the answer was accepted, since each changes the rule that accepts."""

    def __init__(self, connection: sqlite3.Connection, trail: Trail) -> None:
        self._db = connection
        self._trail = trail

    def add(
        self, record: Record, local: JSONValue, other: JSONValue, judge: str, alarms: int
    ) -> bool:
        """Writes a verdict down: the local answer is wrong where the judge's differs, which is
        returned. Uncommitted until the ledger's next `commit`."""
        wrong = bool(local != other)
        values = [json.dumps(value, ensure_ascii=False) for value in (local, other)]
        with self._trail.writing():
            self._db.execute(
                # A verdict that is changed keeps its place: the order is part of the test.
                "INSERT INTO audits VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (position) DO UPDATE SET "
                "wrong=excluded.wrong, other_value=excluded.other_value, judge=excluded.judge",
                (record.position, record.id, wrong, *values, judge, alarms, time.time()),
            )
            self._trail.add_written(AUDIT, record.position)
        return wrong

    def verdicts(self) -> list[tuple[bool, int]]:
        """(wrong, alarms) of each audited answer, in the order of the verdicts."""
        rows = self._db.execute("SELECT wrong, alarms FROM audits ORDER BY at, position")
        return [(bool(wrong), alarms) for wrong, alarms in rows]

    def counts(self) -> Checks:
        count, wrong = self._db.execute("SELECT COUNT(*), SUM(wrong) FROM audits").fetchone()
        return Checks(count, wrong or 0)

    def of(self, position: int) -> Verdict | None:
        """The verdict on a record's local answer."""
        row = self._db.execute(
            "SELECT judge, other_value, wrong FROM audits WHERE position=?", (position,)
        ).fetchone()
        return Verdict(row[0], json.loads(row[1]), bool(row[2])) if row else None
