"""Batches of paid requests: each written down, with all its requests, before it is sent."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runner.ledger.attempts import Attempts, Intent
from runner.ledger.money import from_pico
from runner.ledger.trail import BATCH, Trail

IN_BATCH = "batch"
"""What a record waits for while its request is in a batch."""


_OPEN = "('intent', 'sent', 'ended')"


@dataclass(frozen=True, slots=True)
class Batch:
    """``state``: ``intent`` (it may have been sent), ``sent`` (the provider's ``remote_id`` is
    known), ``ended`` (but since ``ended_at`` not all of its results are there), ``collected``,
    ``released`` (there is no such batch), or ``given_up`` (by its user). ``short``: how often it,
    or what should be there of it, was asked for in vain."""

    id: int
    requests: int
    state: str
    remote_id: str | None
    begun_at: float
    short: int
    ended_at: float | None = None


class Batches:
    """The ``batches`` table. ``commit`` is the ledger's own, over everything pending."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        trail: Trail,
        attempts: Attempts,
        commit: Callable[[], None],
    ) -> None:
        self._db = connection
        self._trail = trail
        self._attempts = attempts
        self._commit = commit

    def begin(self, number: int, intents: Sequence[Intent]) -> list[int]:
        """Writes a batch down before it is sent, and commits; returns its attempts' ids."""
        with self._trail.writing():
            self._db.execute(
                "INSERT INTO batches VALUES (?,?,'intent',NULL,?,NULL,0,NULL)",
                (number, len(intents), time.time()),
            )
            self._trail.add_written(BATCH, None, ref=number)
            self._db.executemany(
                "UPDATE outcomes SET waits_for=? WHERE position=?",
                ((IN_BATCH, intent.position) for intent in intents),
            )
        attempts = [self._attempts.enter(intent, number) for intent in intents]
        self._commit()
        return attempts

    def sent(self, number: int, remote_id: str) -> None:
        """The provider has it under this id; commits."""
        self._change(number, "state='sent', remote_id=?, short=0", remote_id)
        self._commit()

    def fell_short(self, number: int) -> None:
        """The provider ended it, and its results were not all there, once more."""
        since = "ended_at=COALESCE(ended_at, ?)"
        self._change(number, f"state='ended', short=short+1, {since}", time.time())

    def missed(self, number: int) -> None:
        """It should stand in the provider's list, and did not, once more."""
        self._change(number, "short=short+1")

    def close(self, number: int, state: str, problem: str | None = None) -> None:
        """``collected``, ``released`` or ``given_up``: nothing of it is open any more."""
        self._change(number, "state=?, ended_at=?, problem=?", state, time.time(), problem)

    def _change(self, number: int, what: str, *values: Any) -> None:
        with self._trail.writing():
            self._db.execute(f"UPDATE batches SET {what} WHERE id=?", (*values, number))
            self._trail.add_written(BATCH, None, ref=number)

    def open(self) -> list[Batch]:
        """The batches that may still return results, oldest first."""
        rows = self._db.execute(
            "SELECT id, requests, state, remote_id, begun_at, short, ended_at FROM batches "
            f"WHERE state IN {_OPEN} ORDER BY id"
        )
        return [Batch(*row) for row in rows]

    def orphans(self) -> list[int]:
        """The positions of records that wait for a batch in which nothing of theirs is open."""
        rows = self._db.execute(
            "SELECT position FROM outcomes o WHERE status='waiting' AND waits_for=? AND NOT EXISTS "
            "(SELECT 1 FROM attempts a WHERE a.position=o.position AND a.state='reserved') "
            "ORDER BY position",
            (IN_BATCH,),
        )
        return [position for (position,) in rows]

    def next_id(self) -> int:
        """The number of the next batch."""
        (last,) = self._db.execute("SELECT MAX(id) FROM batches").fetchone()
        return (last or 0) + 1

    def remote_ids(self) -> set[str]:
        """All batch ids received from the provider."""
        rows = self._db.execute("SELECT remote_id FROM batches WHERE remote_id IS NOT NULL")
        return {remote_id for (remote_id,) in rows}

    def cost(self, number: int) -> tuple[bool, Decimal | None]:
        """(whether there is such a batch, what it cost if nothing of it is open)."""
        row = self._db.execute(
            f"SELECT b.state IN {_OPEN}, (SELECT SUM(a.cost) FROM attempts a "
            "WHERE a.batch = b.id) FROM batches b WHERE b.id=?",
            (number,),
        ).fetchone()
        return row is not None, None if row is None or row[0] else from_pico(row[1])


def new_mark() -> str:
    """A mark that distinguishes this run directory's batches from all others at a provider."""
    return uuid.uuid4().hex[:12]
