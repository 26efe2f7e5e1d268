"""Sends waiting records to the closed model: redact → reserve → ask → settle → restore.

Records are sent one by one or in the provider's batches; `escalation.send.lanes` chooses.

Each record to escalate first gets a ``waiting`` row in the ledger. `Escalator` processes those rows
both during and after the run, so waiting records survive a crash, use no memory and are sent later
by the same code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import Any

from escalation.limits.budget import Budget
from escalation.limits.daily_cap import Day
from escalation.limits.halt import Halt
from escalation.limits.local_guard import Guard
from escalation.providers.batch_protocol import BatchApi
from escalation.providers.protocol import Reply
from escalation.providers.request_bytes import body_bytes
from escalation.redact import Placeholders
from escalation.send.accounting import Booker
from escalation.send.batch_collect import Collector
from escalation.send.batch_submit import BatchSender, Desk
from escalation.send.closed_side import ClosedSide, Sender
from escalation.send.lanes import Lanes
from escalation.send.live import LiveSender
from runner.errors import RecordError, UsageError
from runner.ledger import Held, Ledger
from runner.types import Outcome, Reason, Say, unheard

CUT_OFF_POLL_S = 10.0
BROKE = (Reason.BUDGET, Reason.DAILY_BUDGET)
RING_S = 0.5
"""The shortest time between two checks for a full batch of waiting records."""
Redacted = tuple[Mapping[str, Any], Placeholders]
"""A redacted request, and the values that its placeholders stand for."""


class Escalator:
    """Sends waiting records. ``on_outcome`` is called for each record that stops waiting, and
    ``on_verdict`` for each audited accepted answer: whether it was wrong, and after how many
    alarms it was accepted. ``day``: the run's share of a daily cap. ``wait``: wait until the last
    batch has returned. ``say`` receives notices about batches and provider trouble."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
        on_verdict: Callable[[bool, int], None] = lambda wrong, alarms: None,
        day: Day | None = None,
        *,
        wait: bool = False,
        say: Say = unheard,
    ) -> None:
        self._ledger = ledger
        self._closed = closed
        self._settings = closed.settings
        self._provider = closed.provider
        self._renderer = closed.renderer
        self._redactor = closed.redactor
        self._day = day
        self._halt = Halt()
        self.guard = Guard(ledger, closed.settings, say)
        self._booker = Booker(ledger, closed, on_outcome, on_verdict)
        self._asker = LiveSender(ledger, closed, self._booker, self._halt, day, say)
        self._lanes = Lanes(closed.settings, ledger.trail.begun_at() or time.time())
        desk = Desk(ledger, closed, self._booker, self._asker, self._halt, day, say)
        self._batch_sender = BatchSender(desk, self._request)
        self._collector = Collector(desk, self._lanes, self._batch_sender)
        self._wait = wait
        self._api: BatchApi | None = None
        self._redacting = ThreadPoolExecutor(1, "redacting")
        self._asked_at = -float("inf")

    @property
    def stopped(self) -> Reason | None:
        """Why sending has stopped, or None; ``problem`` has the details."""
        return self._halt.reason

    @property
    def problem(self) -> str | None:
        return self._halt.problem or self._halt.told

    @property
    def budget(self) -> Budget:
        return self._asker.budget

    def money_left(self) -> Decimal:
        """For calls that are not reserved yet."""
        return self._asker.money_left()

    def reconcile(self, former: Mapping[int, Reply], unheard: Reply) -> None:
        """Settles the calls that a killed run had open, from what its courier wrote down;
        ``unheard``: what is true of those that it did not name."""
        for attempt, position, reserved in self._ledger.attempts.open_attempts():
            held = self._ledger.held(position)
            self._booker.settle(held, attempt, former.get(attempt, unheard), reserved)
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
        self, sender: Sender | None, more: asyncio.Event, finished: Callable[[], bool]
    ) -> None:
        """Sends all that waits and, until ``finished``, all that comes to wait (``more`` rings).
        Without a ``sender`` nothing can be asked live."""
        self._ledger.ready_waiting()
        self.guard.hold()
        self._collector.rescue()
        free = asyncio.Semaphore(self._settings.concurrency)
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._collect()
                    over = finished()
                    more.clear()
                    if not await self._send_some(sender, tasks, free, all_of_it=over):
                        if (over or self.stopped) and not self._batches_to_wait_for():
                            break
                        await self._pause(more, over)
        finally:
            if self._api is not None:
                await self._api.aclose()
                self._api = None

    async def ask(self, sender: Sender, position: int) -> None:
        """Asks live for one record, if it waits: all that is sent where somebody waits for it."""
        held = self._ledger.held(position)
        if held is None:
            return
        self._ledger.set_waits_for(position, "sending")
        await self._one(sender, held)
        if self.stopped is not None:
            self._ledger.set_waits_for(position, self.stopped)

    def stop(self) -> None:
        """Stops sending; calls under way are completed."""
        self._halt.now(Reason.STOPPED)

    def lift(self) -> None:
        """Resumes sending after a stop, in case its cause is gone."""
        self._halt.lift()

    async def _send_some(
        self,
        sender: Sender | None,
        tasks: asyncio.TaskGroup,
        free: asyncio.Semaphore,
        *,
        all_of_it: bool,
    ) -> bool:
        """Sends a portion of the waiting records; returns whether there were any."""
        if self.stopped is not None:
            return False
        if self._lanes.batch() or sender is None:
            most = self._settings.batch.max_requests
            if not all_of_it and self._ledger.ready(most) < most:
                return False
            taken = await self._batch_sender.send(await self._connected())
            self._asked_at = time.monotonic()  # none is back at once
            return taken > 0
        ready = self._ledger.take_waiting(self._settings.concurrency)
        for held in ready:
            await free.acquire()
            task = tasks.create_task(self._one(sender, held))
            task.add_done_callback(lambda _: free.release())
        return bool(ready)

    def _batches_to_wait_for(self) -> bool:
        """Whether this process should stay for batches that may still return, even if sending
        has stopped."""
        return (self._wait or self._lanes.cut_off()) and self._collector.to_come()

    async def give_up(self, batch: str) -> None:
        """Waits no more for a batch, by its id or its number.

        Raises:
            UsageError: no such batch is open.
        """
        await self._collector.give_up(batch)

    async def _pause(self, more: asyncio.Event, over: bool) -> None:
        """Waits until there may be something to do."""
        opened = bool(self._ledger.batches.open())
        left = self._asked_at + self._poll_s - time.monotonic() if opened else None
        if over or self.stopped is not None:
            await asyncio.sleep(max(left or 0.0, 0.0))
            return
        if self._lanes.batch():
            await asyncio.sleep(RING_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(more.wait(), left)

    @property
    def _poll_s(self) -> float:
        return min(self._settings.batch.poll_s, CUT_OFF_POLL_S if self._lanes.cut_off() else 1e9)

    async def _collect(self) -> None:
        """Asks about the open batches, where it is time to."""
        if time.monotonic() < self._asked_at + self._poll_s or not self._ledger.batches.open():
            return
        left = self.money_left()
        await self._collector.collect(await self._connected())
        self._asked_at = time.monotonic()
        if self.money_left() > left:
            self._ledger.ready_again(BROKE)
            if self.stopped in BROKE:
                self._halt.lift()

    async def _connected(self) -> BatchApi:
        if self._api is None:
            assert self._closed.batches is not None
            # In a thread: the SDK takes seconds to import, and local work does not wait for it.
            self._api = await asyncio.to_thread(self._closed.batches)
        return self._api

    async def _request(self, held: Held) -> Mapping[str, Any] | None:
        """The record's redacted request; None if it cannot be sent and went to review."""
        try:
            return (await self._redacting_of(held))[0]
        except RecordError as error:
            self._unsendable(held, error)
            return None

    def _redacting_of(self, held: Held) -> asyncio.Future[Redacted]:
        """In a thread: a text may be long, and nothing else is to wait for its redaction."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._redacting, self._redacted, held)

    def _redacted(self, held: Held) -> Redacted:
        prompt = self._renderer.render(held.record)
        placeholders = self._redactor.placeholders(held.record)
        redacted = self._redactor.redact(prompt, placeholders)
        return self._provider.request(redacted), placeholders

    def _unsendable(self, held: Held, error: RecordError) -> None:
        reply = Reply("reject", problem=str(error))
        self._booker.to_review(held, reply, reason=error.reason)
        self._ledger.commit()

    async def _one(self, sender: Sender, held: Held) -> None:
        if self.stopped is not None:
            return
        if self.guard.holds(held.reason):
            self._ledger.set_waits_for(held.record.position, Reason.GUARDED)
            return
        position = held.record.position
        try:
            request, self._booker.placeholders[position] = await self._redacting_of(held)
        except RecordError as error:
            self._unsendable(held, error)
            return
        try:
            await self._asker.ask(sender, held, request, body_bytes(request))
        finally:
            del self._booker.placeholders[position]
