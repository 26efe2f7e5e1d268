"""Waiting records → the closed model, one by one: redact → reserve → ask → settle → restore.

Every record that is to be escalated first gets its ``waiting`` row in the ledger; `Escalator`
works those rows off, during the run and after it alike. So what waits survives any crash, costs
no memory, and is sent later by the same code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from escalation.asking import Asker
from escalation.booking import Booker
from escalation.budget import Budget
from escalation.closed import ClosedSide, Sender
from escalation.halt import Halt
from escalation.replies import Reply
from escalation.spend import Day
from runner.errors import RecordError, UsageError
from runner.ledger import Held, Ledger
from runner.types import Outcome, Reason


class Escalator:
    """Sends what waits. ``on_outcome`` hears of every record that stops waiting, ``on_verdict`` of
    every accepted answer that was audited: whether it was wrong, and after how many alarms it was
    accepted. ``day``: the run's part in a cap that it shares with others."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
        on_verdict: Callable[[bool, int], None] = lambda wrong, alarms: None,
        day: Day | None = None,
    ) -> None:
        self._ledger = ledger
        self._settings = closed.settings
        self._provider = closed.provider
        self._renderer = closed.renderer
        self._redactor = closed.redactor
        self._day = day
        self._halt = Halt()
        self._booker = Booker(ledger, closed, on_outcome, on_verdict)
        self._asker = Asker(ledger, closed, self._booker, self._halt, day)

    @property
    def stopped(self) -> Reason | None:
        """Why nothing more is sent, where that is so; ``problem`` says more."""
        return self._halt.reason

    @property
    def problem(self) -> str | None:
        return self._halt.problem

    @property
    def budget(self) -> Budget:
        return self._asker.budget

    def money_left(self) -> Decimal:
        """For calls that are not reserved yet."""
        return self._asker.money_left()

    def reconcile(self, former: Mapping[int, Reply]) -> None:
        """Settles the calls that a killed run had open, from what its courier wrote down."""
        for attempt, position, reserved in self._ledger.attempts.open_attempts():
            reply = former.get(attempt, Reply("unsent"))
            held = self._ledger.held(position)
            if held is None and reply.verdict == "ok":
                reply = Reply("unknown", problem="its record no longer waits")
            if reply.verdict == "ok" and held is not None:
                self._booker.settle(held, attempt, reply, reserved)
            else:
                self._booker.unpaid(attempt, reply)
                if held is not None and reply.verdict in ("unknown", "reject"):
                    self._booker.to_review(held, reply)
        self._ledger.commit()
        self._asker.budget = Budget(
            self._settings.budget_usd, self._ledger.attempts.committed_usd()
        )

    def settle_day(self) -> None:
        """Settles what this run has open under the day's cap, by its ledger."""
        try:
            if self._day is not None:
                self._day.reconcile(self._ledger)
        except UsageError as error:  # it stays reserved there until the next start
            self._halt.now(Reason.PROVIDER_HALTED, str(error))

    async def drain(
        self, sender: Sender, more: asyncio.Event, finished: Callable[[], bool]
    ) -> None:
        """Sends all that waits and, until ``finished``, all that comes to wait (``more`` rings)."""
        self._ledger.ready_waiting()
        free = asyncio.Semaphore(self._settings.concurrency)
        async with asyncio.TaskGroup() as tasks:
            while self.stopped is None:
                over = finished()
                more.clear()
                batch = self._ledger.take_waiting(self._settings.concurrency)
                for held in batch:
                    await free.acquire()
                    task = tasks.create_task(self._one(sender, held))
                    task.add_done_callback(lambda _: free.release())
                if not batch:
                    if over:
                        break
                    await more.wait()

    async def _one(self, sender: Sender, held: Held) -> None:
        if self.stopped is not None:
            return
        try:
            prompt = self._renderer.render(held.record)
            placeholders = self._redactor.placeholders(held.record)
            request = self._provider.request(self._redactor.redact(prompt, placeholders))
        except RecordError as error:
            reply = Reply("reject", problem=str(error))
            self._booker.to_review(held, reply, reason=error.reason)
            self._ledger.commit()
            return
        await self._asker.ask(sender, held, request, body_bytes(request))


def body_bytes(request: Mapping[str, Any]) -> bytes:
    """The request's body to the byte as the provider's SDK sends it."""
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")
