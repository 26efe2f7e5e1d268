"""The paid part of one run directory: the daily cap, the escalator and the courier that sends.

Opening it first settles the calls that a former process left open; closing it settles its own.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

from escalation.limits.daily_cap import Day, SpendFile
from escalation.send.closed_side import ClosedSide, Sender
from escalation.send.courier import JOURNAL
from escalation.send.courier_client import Courier
from escalation.send.escalate import Escalator
from escalation.send.journal import check, close
from runner.ledger import Ledger
from runner.types import Outcome, Say

GRACE_S = 10.0


class PaidSession:
    """Sends while it is `open`. ``sender`` makes the live calls; it is None without an API key or
    when all requests go in batches. The arguments are those of `Escalator`."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        run_dir: Path,
        say: Say,
        on_outcome: Callable[[Outcome], None],
        on_verdict: Callable[[bool, int], None],
        *,
        wait: bool = False,
    ) -> None:
        self.closed = closed
        self.sender: Sender | None = None
        self._ledger = ledger
        self._run_dir = run_dir
        self._courier = Courier(run_dir, closed.settings, closed.patience, say)
        day = _day_cap(closed, ledger, run_dir)
        self.escalator = Escalator(ledger, closed, on_outcome, on_verdict, day, wait=wait, say=say)

    @asynccontextmanager
    async def open(self, give_up: Sequence[str] = ()) -> AsyncIterator[None]:
        """Continues where a former process with the same ledger stopped. ``give_up`` names the
        batches to stop waiting for.

        Raises:
            RunDirError: the courier's journal contradicts the ledger.
            UsageError: no such batch is open.
        """
        if (self._run_dir / JOURNAL).exists():
            await self._courier.until_free()
        check(self._run_dir, self._ledger)
        await self._settle()
        for batch in give_up:
            await self.escalator.give_up(batch)
        live = self.closed.has_key and self.closed.settings.lane != "batch"
        try:
            async with self._courier if live else nullcontext() as self.sender:
                yield
        finally:
            # Cut short by Ctrl-C or a failure, calls under way are still paid for: book them.
            await self._settle()
            self._ledger.meta.stopped = self.escalator.problem or self.escalator.guard.problem

    async def _settle(self) -> None:
        """Books the paid calls that were left open; all of them are settled then."""
        if self._ledger.attempts.open_attempts():
            self.escalator.reconcile(*await self._courier.former_replies())
        self.escalator.settle_day()
        close(self._run_dir, self._ledger)


def _day_cap(closed: ClosedSide, ledger: Ledger, run_dir: Path) -> Day | None:
    """The run directory's share of the daily cap; None without such a cap."""
    cap = closed.settings.daily_budget_usd
    if cap is None:
        return None
    file, patience_s = SpendFile(closed.spend_file), closed.settings.timeout_s + GRACE_S
    mark = ledger.meta.spend_mark or uuid.uuid4().hex
    ledger.meta.spend_mark = mark
    # With a mark: another run may later be made in a folder of the same name. With the folder: a
    # copy of it is another run.
    return Day(file, f"{run_dir.resolve()} {mark}", cap, patience_s)
