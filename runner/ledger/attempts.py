"""Paid calls: each written down before it leaves, with the most that it can cost."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from runner.errors import RunFailed
from runner.ledger.money import from_pico, to_pico
from runner.types import Record


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turns a failed write (a full disk, most likely) into the sentence a person needs."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RunFailed(
            f"cannot write to {where}: {error}; what was recorded before is kept: make "
            "room there and run the same command again"
        ) from None


@dataclass(frozen=True, slots=True)
class Egress:
    """What is about to leave the machine: where to, how many bytes, and their SHA-256."""

    provider: str
    model: str
    url: str
    bytes: int
    sha256: str


class Attempts:
    """The ``attempts`` table. ``commit`` is the ledger's own, over everything pending."""

    def __init__(
        self, connection: sqlite3.Connection, where: Path, commit: Callable[[], None]
    ) -> None:
        self._db = connection
        self._where = where
        self._commit = commit

    def reserve(self, record: Record, egress: Egress, worst_case: Decimal) -> int:
        """Writes a paid call down before it is made, and commits; returns the attempt's id."""
        with writing(self._where):
            cursor = self._db.execute(
                "INSERT INTO attempts (position, record_id, provider, model, url, bytes, sha256, "
                "state, reserved, begun_at) VALUES (?,?,?,?,?,?,?,'reserved',?,?)",
                (record.position, record.id, egress.provider, egress.model, egress.url,
                 egress.bytes, egress.sha256, to_pico(worst_case), time.time()),
            )  # fmt: skip
        self._commit()
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
        """``settled`` (paid ``cost``), ``released`` (not billed) or ``unknown`` (the reservation
        stays spent). Uncommitted until the next `commit`, so that an outcome can go with it."""
        with writing(self._where):
            self._db.execute(
                "UPDATE attempts SET state=?, cost=CASE ? WHEN 'unknown' THEN reserved ELSE ? END, "
                "usage=?, request_id=?, problem=?, ended_at=? WHERE id=?",
                (state, state, to_pico(cost), json.dumps(usage), request_id, problem, time.time(),
                 attempt),
            )  # fmt: skip

    def open_attempts(self) -> list[tuple[int, int, Decimal]]:
        """(attempt id, position, reservation) of calls a former process did not end."""
        rows = self._db.execute(
            "SELECT id, position, reserved FROM attempts WHERE state='reserved'"
        )
        return [(attempt, position, from_pico(reserved)) for attempt, position, reserved in rows]

    def committed_usd(self) -> Decimal:
        """What is spent or may be: costs, reservations of open calls and of unknown ones."""
        row = self._db.execute("SELECT SUM(COALESCE(cost, reserved)) FROM attempts").fetchone()
        return from_pico(row[0])

    def paid_usd(self, position: int) -> Decimal:
        """What this record has cost so far, over all its attempts."""
        row = self._db.execute(
            "SELECT SUM(COALESCE(cost, reserved)) FROM attempts WHERE position=?", (position,)
        ).fetchone()
        return from_pico(row[0])
