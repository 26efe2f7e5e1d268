"""The queue for the closed model: what each waiting record waits for.

It is no more than a notice beside the outcome, so the trail does not hold it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal

from runner.ledger.batches import IN_BATCH
from runner.ledger.money import from_pico
from runner.ledger.trail import Trail
from runner.types import Reason

CHOOSING = "choosing"
"""What a record waits for while the budget is still to be divided over the whole batch."""


class Queue:
    """The ``waits_for`` column of the waiting outcomes; NULL for one that is ready to be sent."""

    _db: sqlite3.Connection
    trail: Trail

    def set_waits_for(self, position: int, cause: str) -> None:
        """Says why a waiting record was not sent."""
        with self.trail.writing():
            self._db.execute(
                "UPDATE outcomes SET waits_for=? WHERE position=? AND status='waiting'",
                (cause, position),
            )

    def explain_waiting(self, cause: str) -> None:
        """Gives every record that still waits, and of which nothing is said yet, this cause."""
        with self.trail.writing():
            self._db.execute(
                "UPDATE outcomes SET waits_for=? WHERE status='waiting' "
                "AND (waits_for IS NULL OR waits_for IN ('sending', ?))",
                (cause, CHOOSING),
            )

    def ready_waiting(self) -> None:
        """Makes every waiting record ready to be taken, or to be chosen, whatever kept it; but
        not what is in a batch."""
        with self.trail.writing():
            self._db.execute(
                "UPDATE outcomes SET waits_for = CASE WHEN reason=? THEN ? END "
                "WHERE status='waiting' AND waits_for NOT IN (?, ?)",
                (Reason.EXPECTED_LOSS, CHOOSING, CHOOSING, IN_BATCH),
            )

    def ready_again(self, causes: Sequence[str]) -> None:
        """Makes the records ready that wait for one of these causes."""
        places = ",".join("?" * len(causes))
        ours = f"status='waiting' AND waits_for IN ({places})"
        with self.trail.writing():
            self._db.execute(f"UPDATE outcomes SET waits_for=NULL WHERE {ours}", causes)

    def hold_back(self, reasons: Sequence[Reason], cause: str, *, undivided: bool = False) -> int:
        """Holds back what waits for these reasons and could be sent, or still be chosen for it;
        returns how many records that are."""
        places = ",".join("?" * len(reasons))
        chosen = f"waits_for = '{CHOOSING}'" if undivided else "0"
        with self.trail.writing():
            return self._db.execute(
                "UPDATE outcomes SET waits_for=? WHERE status='waiting' "
                f"AND (waits_for IS NULL OR {chosen}) AND reason IN ({places})",
                (cause, *reasons),
            ).rowcount

    def let_go(self, cause: str) -> None:
        """Makes what waits for this cause ready to be taken, or to be chosen."""
        with self.trail.writing():
            self._db.execute(
                "UPDATE outcomes SET waits_for = CASE WHEN reason=? THEN ? END "
                "WHERE status='waiting' AND waits_for=?",
                (Reason.EXPECTED_LOSS, CHOOSING, cause),
            )

    def choosing(self) -> list[tuple[int, float, Decimal]]:
        """(position, expected loss, what the closed model would cost) of the records among which
        the whole batch's budget is still to be divided."""
        rows = self._db.execute(
            "SELECT o.position, h.expected_loss, o.closed_estimate FROM present o "
            "JOIN held h USING (position) WHERE o.status='waiting' AND o.waits_for=?",
            (CHOOSING,),
        )
        return [(position, loss or 0.0, from_pico(cost)) for position, loss, cost in rows]

    def choose(self, positions: Iterable[int]) -> None:
        """Makes these records ready to be sent, or to be sent again."""
        with self.trail.writing():
            self._db.executemany(
                "UPDATE outcomes SET waits_for=NULL WHERE position=?", ((p,) for p in positions)
            )

    def count_waiting(self) -> int:
        """How many records of the current file wait, for any cause."""
        sql = "SELECT COUNT(*) FROM present WHERE status='waiting'"
        return int(self._db.execute(sql).fetchone()[0])

    def ready(self, most: int) -> int:
        """How many records are ready to be taken, counted up to so many."""
        one = (
            "SELECT 1 FROM present WHERE status='waiting' AND waits_for IS NULL "
            "ORDER BY position LIMIT ?"
        )
        return int(self._db.execute(f"SELECT COUNT(*) FROM ({one})", (most,)).fetchone()[0])
