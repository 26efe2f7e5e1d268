"""Paid calls, each written down with its maximum cost before it is sent."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from runner.ledger.money import from_pico, to_pico
from runner.ledger.trail import CALL, Trail, moment
from runner.types import Record


@dataclass(frozen=True, slots=True)
class Egress:
    """A request about to leave the machine: its destination, size in bytes and SHA-256."""

    provider: str
    model: str
    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A record's request that is about to be sent, and its maximum cost."""

    position: int
    record_id: str
    egress: Egress
    worst_case: Decimal


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it is in the books. ``cost_usd``: its reservation while nothing better is
    known."""

    attempt: int
    position: int
    record_id: str
    egress: Egress
    state: str
    cost_usd: Decimal
    begun_at: float
    request_id: str | None
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "time": moment(self.begun_at),
            "id": self.record_id,
            **asdict(self.egress),
            "state": self.state,
            "cost_usd": float(self.cost_usd),
            "request_id": self.request_id,
            "problem": self.problem,
        }


class Attempts:
    """The ``attempts`` table. ``commit`` is the ledger's own, over everything pending."""

    def __init__(
        self, connection: sqlite3.Connection, trail: Trail, commit: Callable[[], None]
    ) -> None:
        self._db = connection
        self._trail = trail
        self._commit = commit

    def reserve(self, record: Record, egress: Egress, worst_case: Decimal) -> int:
        """Writes a paid call down before it is made, and commits; returns the attempt's id."""
        attempt = self.enter(Intent(record.position, record.id, egress, worst_case))
        self._commit()
        return attempt

    def enter(self, intent: Intent, batch: int | None = None) -> int:
        """Writes a paid call down without committing, for requests sent together."""
        egress = intent.egress
        with self._trail.writing():
            cursor = self._db.execute(
                "INSERT INTO attempts (position, record_id, provider, model, url, bytes, sha256, "
                "state, reserved, begun_at, batch) VALUES (?,?,?,?,?,?,?,'reserved',?,?,?)",
                (intent.position, intent.record_id, egress.provider, egress.model, egress.url,
                 egress.bytes, egress.sha256, to_pico(intent.worst_case), time.time(), batch),
            )  # fmt: skip
            self._trail.add_written(CALL, intent.position, ref=cursor.lastrowid)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def end_attempt(
        self,
        attempt: int,
        state: str,
        *,
        cost: Decimal = Decimal(0),
        usage: Mapping[str, int] | None = None,
        request_id: str | None = None,
        problem: str | None = None,
    ) -> None:
        """``settled`` (paid ``cost``), ``released`` (not billed), ``unsent`` (it never left) or
        ``unknown`` (the reservation stays spent). Uncommitted until the next `commit`, so that an
        outcome can go with it."""
        with self._trail.writing():
            self._db.execute(
                "UPDATE attempts SET state=?, cost=CASE ? WHEN 'unknown' THEN reserved ELSE ? END, "
                "usage=?, request_id=?, problem=?, ended_at=? WHERE id=?",
                (state, state, to_pico(cost), json.dumps(usage), request_id, problem, time.time(),
                 attempt),
            )  # fmt: skip
            row = self._db.execute("SELECT position FROM attempts WHERE id=?", (attempt,))
            self._trail.add_written(CALL, row.fetchone()[0], ref=attempt)

    def open_attempts(self) -> list[tuple[int, int, Decimal]]:
        """(attempt id, position, reservation) of live calls a former process did not end."""
        return self._open("batch IS NULL")

    def open_in(self, batch: int) -> list[tuple[int, int, Decimal]]:
        """The same of a batch's requests that have no result yet."""
        return self._open("batch = ?", batch)

    def _open(self, which: str, *values: int) -> list[tuple[int, int, Decimal]]:
        rows = self._db.execute(
            "SELECT id, position, reserved FROM attempts WHERE state='reserved' AND "
            f"{which} ORDER BY id",
            values,
        )
        return [(attempt, position, from_pico(reserved)) for attempt, position, reserved in rows]

    def count(self, position: int) -> int:
        """How often this record's request was, or may have been, sent."""
        sql = "SELECT COUNT(*) FROM attempts WHERE position=? AND state != 'unsent'"
        return int(self._db.execute(sql, (position,)).fetchone()[0])

    def next_id(self) -> int:
        """The id of the next attempt to be reserved."""
        (last,) = self._db.execute("SELECT MAX(id) FROM attempts").fetchone()
        return (last or 0) + 1

    def cost(self, attempt: int) -> tuple[bool, Decimal | None]:
        """(whether there is such an attempt, what it cost if it has ended)."""
        row = self._db.execute("SELECT cost FROM attempts WHERE id=?", (attempt,)).fetchone()
        return row is not None, None if row is None or row[0] is None else from_pico(row[0])

    def sent(self) -> Iterator[Call]:
        """Streams the calls that were, or may have been, sent, in order."""
        return self._calls("state != 'unsent'")

    def of(self, position: int) -> Iterator[Call]:
        """A record's calls, in order."""
        return self._calls("position = ?", position)

    def find(self, attempt: int) -> Call | None:
        """The call of this id."""
        return next(self._calls("id = ?", attempt), None)

    def _calls(self, which: str, *values: int) -> Iterator[Call]:
        rows = self._db.execute(
            "SELECT id, position, record_id, provider, model, url, bytes, sha256, state, "
            "COALESCE(cost, reserved), begun_at, request_id, problem FROM attempts "
            f"WHERE {which} ORDER BY id",
            values,
        )
        for number, at, record, *egress, state, cost, begun, request, problem in rows:
            yield Call(
                number, at, record, Egress(*egress), state, from_pico(cost), begun, request, problem
            )

    def committed_usd(self) -> Decimal:
        """The money spent or possibly spent: costs, and reservations of open and unknown calls."""
        row = self._db.execute("SELECT SUM(COALESCE(cost, reserved)) FROM attempts").fetchone()
        return from_pico(row[0])

    def paid_usd(self, position: int) -> Decimal:
        """The record's cost so far, over all its attempts."""
        row = self._db.execute(
            "SELECT SUM(COALESCE(cost, reserved)) FROM attempts WHERE position=?", (position,)
        ).fetchone()
        return from_pico(row[0])
