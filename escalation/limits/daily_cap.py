"""The daily cap over all runs that share a spend file; reserved before each call, like a budget.

A call counts for the UTC day of its reservation, whenever it ends. Reservations of a killed run
stay until the run is resumed and its ledger shows the outcome.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from enum import Enum, auto
from pathlib import Path

from runner import private
from runner.errors import UsageError
from runner.ledger import Ledger
from runner.ledger.money import PICO, from_pico, to_pico

SCHEMA = """
CREATE TABLE IF NOT EXISTS days (day TEXT PRIMARY KEY, spent INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS open (
  run TEXT NOT NULL, attempt INTEGER NOT NULL, day TEXT NOT NULL, reserved INTEGER NOT NULL,
  due REAL NOT NULL, PRIMARY KEY (run, attempt));
"""
APPLICATION = 0x6C667370
VERSION = 1
BUSY_S = 30.0


class Room(Enum):
    """Whether an amount fits; ``LATER`` if it may fit once calls in progress have ended."""

    YES = auto()
    LATER = auto()
    NO = auto()


class SpendFile:
    """The file of daily spending. It is opened for each step, so any thread or process may use it.

    Raises:
        UsageError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            private.folder(path.parent)
            if not path.exists():  # a file shared by a team keeps its mode
                private.made(path)
            with self._step(create=True) as db:
                marks = [_pragma(db, name) for name in ("application_id", "user_version")]
                if marks == [0, 0] and not _tables(db):
                    for statement in SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {APPLICATION}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
                elif marks != [APPLICATION, VERSION]:
                    raise UsageError(
                        f"{path} is not a spend file of this version of surelocal; set another one "
                        "as `escalation.spend_file`"
                    )

    def reserve(
        self, run: str, attempt: int, amount: int, cap: int, now: float, patience_s: float
    ) -> Room:
        """Reserves an amount in pico-dollars if it fits under the day's cap."""
        day = day_of(now)
        with self._told(), self._step() as db:
            room = _room(db, amount, cap, now)
            if room is Room.YES:
                row = (run, attempt, day, amount, now + patience_s)
                db.execute("INSERT INTO open VALUES (?,?,?,?,?)", row)
        return room

    def room(self, amount: int, cap: int, now: float) -> Room:
        """Whether the amount would fit; reserves nothing."""
        with self._told(), self._step() as db:
            return _room(db, amount, cap, now)

    def settle(self, run: str, attempt: int, cost: int) -> None:
        """Replaces a reservation by the call's cost, on the day of the reservation."""
        key = (run, attempt)
        with self._told(), self._step() as db:
            row = db.execute("SELECT day FROM open WHERE run=? AND attempt=?", key).fetchone()
            if row is None:
                return  # settled already
            db.execute("DELETE FROM open WHERE run=? AND attempt=?", key)
            db.execute(
                "INSERT INTO days VALUES (?,?) ON CONFLICT (day) DO UPDATE SET spent=spent+?",
                (row[0], cost, cost),
            )

    def open_of(self, run: str) -> list[int]:
        """The run's attempts with an open reservation."""
        with self._told(), self._step() as db:
            return [row[0] for row in db.execute("SELECT attempt FROM open WHERE run=?", (run,))]

    def total(self, day: str) -> int:
        """The day's total in pico-dollars: spent, possibly spent, and reserved."""
        with self._told(), self._step() as db:
            return sum(_sums(db, day))

    @contextmanager
    def _step(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, exclusive among all processes."""
        # A missing file is not re-created here: an empty one would lose what was spent.
        uri = f"{self.path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
            # No WAL: network file systems do not support it. EXTRA: survives a power failure.
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("BEGIN IMMEDIATE")
            yield db  # closing without a commit rolls it back
            db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            fix = "make it readable and writable"
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                fix = f"another process has locked it for {BUSY_S:g} s: check that process"
            raise UsageError(
                f"the spend file {self.path} cannot be used: {error}; {fix}, or set another one "
                "as `escalation.spend_file`"
            ) from None


@dataclass(frozen=True, slots=True)
class Day:
    """One run's access to the daily cap."""

    file: SpendFile
    run: str
    cap: Decimal
    patience_s: float
    now: Callable[[], float] = time.time

    async def reserve(self, attempt: int, worst_case: Decimal) -> Room:
        """Reserves in a thread: local work must not wait if another process holds the file."""
        return await asyncio.to_thread(
            self.file.reserve, self.run, attempt, to_pico(worst_case), _floor(self.cap),
            self.now(), self.patience_s,
        )  # fmt: skip

    async def reserve_batch(self, batch: int, worst_case: Decimal) -> bool:
        """Reserves a whole batch. Others do not wait for it, since a batch takes hours."""
        room = await asyncio.to_thread(
            self.file.reserve, self.run, -batch, to_pico(worst_case), _floor(self.cap),
            self.now(), 0.0,
        )  # fmt: skip
        return room is Room.YES

    async def settle_batch(self, batch: int, cost: Decimal) -> None:
        await self.settle(-batch, cost)

    async def settle(self, attempt: int, cost: Decimal) -> None:
        await asyncio.to_thread(self.file.settle, self.run, attempt, to_pico(cost))

    def full(self, least: Decimal) -> bool:
        """Whether not even ``least`` fits, however the calls in progress end."""
        return self.file.room(to_pico(least), _floor(self.cap), self.now()) is Room.NO

    def left(self) -> Decimal:
        return self.cap - from_pico(self.file.total(day_of(self.now())))

    def reconcile(self, ledger: Ledger) -> None:
        """Settles the open reservations of a killed run from its ledger."""
        for attempt in self.file.open_of(self.run):
            # A call is reserved here, then in the ledger, then sent: a call that is not in the
            # ledger was not sent. One that the ledger has open stays reserved.
            one = ledger.attempts.cost(attempt) if attempt > 0 else ledger.batches.cost(-attempt)
            known, cost = one
            if not known or cost is not None:
                self.file.settle(self.run, attempt, to_pico(cost or Decimal(0)))


def spent_today(path: Path, now: float | None = None) -> Decimal:
    """The amount in US dollars spent on this UTC day by all runs that share the file.

    Raises:
        UsageError: the file cannot be read.
    """
    if not path.exists():
        return Decimal(0)
    return from_pico(SpendFile(path).total(day_of(time.time() if now is None else now)))


def day_of(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _floor(usd: Decimal) -> int:
    return int((usd / PICO).to_integral_value(ROUND_FLOOR))


def _room(db: sqlite3.Connection, amount: int, cap: int, now: float) -> Room:
    spent, reserved = _sums(db, day_of(now))
    if spent + reserved + amount <= cap:
        return Room.YES
    # An overdue reservation is from a killed run, which may not be resumed soon.
    soon = _reserved(db, day_of(now), now)
    return Room.LATER if spent + reserved - soon + amount <= cap else Room.NO


def _sums(db: sqlite3.Connection, day: str) -> tuple[int, int]:
    row = db.execute("SELECT spent FROM days WHERE day=?", (day,)).fetchone()
    return (row[0] if row else 0), _reserved(db, day, 0.0)


def _reserved(db: sqlite3.Connection, day: str, due_after: float) -> int:
    (found,) = db.execute(
        "SELECT SUM(reserved) FROM open WHERE day=? AND due>?", (day, due_after)
    ).fetchone()
    return int(found or 0)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _tables(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
