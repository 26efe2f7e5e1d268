"""Brings back what batches came to, in this process or a later one, and finds lost ones again.

Every result is booked as it is read, so a body that is cut off, or a kill, costs nothing but
reading it again. A batch is closed when each of its requests has a result.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from escalation.batches import BatchApi, CallFailed, Lost, ResultsGone
from escalation.batching import BatchSender, Desk
from escalation.lanes import Lanes
from escalation.replies import Reply
from runner.ledger import Batch
from runner.types import Reason

MOST_SHORT = 8
"""So many times results may be missing from what looks whole before they count as lost."""
COMMIT_EVERY = 200
TRIES = 3
T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    """What of a batch has no result yet: attempt → (position, reservation); ``brought`` counts
    what the rest came to by verdict, ``back`` is what of their reservations was not spent."""

    left: dict[int, tuple[int, Decimal]]
    brought: Counter[str] = field(default_factory=Counter)
    back: Decimal = Decimal(0)


class Collector:
    def __init__(self, desk: Desk, lanes: Lanes, sender: BatchSender) -> None:
        self._ledger = desk.ledger
        self._settings = desk.closed.settings
        self._booker = desk.booker
        self._asker = desk.asker
        self._halt = desk.halt
        self._day = desk.day
        self._say = desk.say
        self._lanes = lanes
        self._sender = sender
        self._cancelled: set[int] = set()

    async def collect(self, api: BatchApi) -> None:
        """Asks about every open batch once."""
        for batch in self._ledger.batches.open():
            try:
                if batch.remote_id is None:
                    await self._search(api, batch)
                else:
                    await self._ask_about(api, batch, batch.remote_id)
            except CallFailed as error:
                self._ledger.commit()
                name = batch.remote_id or f"of {batch.requests:,} requests"
                self._say(f"batch {name}: {error.reply.problem}; it will be asked about again")
                if error.reply.verdict == "halt":
                    self._halt.now(Reason.PROVIDER_HALTED, error.reply.problem)
                    return

    async def _search(self, api: BatchApi, batch: Batch) -> None:
        known = frozenset(self._ledger.batches.remote_ids())
        prefix = self._sender.prefix(batch.id)
        lost = Lost(prefix, batch.requests, batch.begun_at, known)
        found = await _patiently(lambda: api.find(lost))
        if found.id is not None:
            self._ledger.batches.sent(batch.id, found.id)
            self._say(f"batch {found.id}: found again, of {batch.requests:,} requests")
            await self._ask_about(api, batch, found.id)
            return
        waited = time.time() - batch.begun_at
        if not found.undecided and waited > self._settings.batch.listed_within_s:
            problem = "the batch was never made"
            await self._sender.release(batch, Reply("retry", problem=problem))

    async def _ask_about(self, api: BatchApi, batch: Batch, remote_id: str) -> None:
        remote = await _patiently(lambda: api.look(remote_id))
        if not remote.ended:
            if self._lanes.cut_off() and batch.id not in self._cancelled:
                await _patiently(lambda: api.cancel(remote_id))
                self._cancelled.add(batch.id)
                self._say(f"batch {remote_id}: cancelled, what is left of it is asked live")
            return
        if remote.problem is not None:
            await self._sender.release(batch, Reply("reject", problem=remote.problem))
            self._halt.now(Reason.PROVIDER_HALTED, remote.problem)
            return
        await self._bring(api, batch, remote_id)

    async def _bring(self, api: BatchApi, batch: Batch, remote_id: str) -> None:
        rows = self._ledger.attempts.open_in(batch.id)
        opened = _Open({attempt: (position, worst) for attempt, position, worst in rows})
        try:
            try:
                await self._read(api, batch, remote_id, opened)
            except ResultsGone as error:
                self._give_up(opened, error.reply)
            if opened.left:
                self._ledger.batches.fell_short(batch.id)
                if batch.short + 1 >= MOST_SHORT:
                    lost = Reply("unknown", problem="the provider has no result for it")
                    self._give_up(opened, lost)
            if not opened.left:
                self._ledger.batches.close(batch.id, "collected")
        finally:
            self._ledger.commit()
            self._asker.budget.refund(opened.back)
        self._tell(remote_id, opened)
        if not opened.left and self._day is not None:
            cost = self._ledger.batches.cost(batch.id)[1]
            await self._day.settle_batch(batch.id, cost or Decimal(0))

    async def _read(self, api: BatchApi, batch: Batch, remote_id: str, opened: _Open) -> None:
        prefix, read = self._sender.prefix(batch.id), 0
        async with aclosing(api.results(remote_id)) as results:
            async for name, reply in results:
                number = name.removeprefix(prefix) if name.startswith(prefix) else ""
                if number.isdecimal():
                    self._book(int(number), reply, opened)
                read += 1
                if read % COMMIT_EVERY == 0:
                    self._ledger.commit()
                    await asyncio.sleep(0)

    def _give_up(self, opened: _Open, reply: Reply) -> None:
        for attempt in list(opened.left):
            self._book(attempt, reply, opened)

    def _book(self, attempt: int, reply: Reply, opened: _Open) -> None:
        """One result; a second one for the same request is none."""
        position, reserved = opened.left.pop(attempt, (None, None))
        if position is None or reserved is None:
            return
        opened.brought[reply.verdict] += 1
        held = self._ledger.held(position)
        if held is None:
            problem = "its record no longer waits"
            self._booker.unpaid(attempt, Reply("unknown", problem=problem))
            return
        booked = self._booker.settle(held, attempt, reply, reserved, batched=True)
        opened.back += reserved - booked.cost
        if reply.verdict == "halt":
            self._halt.now(Reason.PROVIDER_HALTED, reply.problem)
        if reply.verdict not in ("retry", "halt"):
            return
        times = self._ledger.attempts.count(position)
        if times < self._settings.max_attempts:
            self._ledger.choose([position])
        else:
            problem = f"{reply.problem}; sent {times} times"
            self._booker.to_review(held, Reply("reject", problem=problem))

    def _tell(self, remote_id: str, opened: _Open) -> None:
        brought = opened.brought
        parts = [
            (brought["ok"], "answered"),
            (brought["retry"] + brought["halt"], "not done, to be sent again"),
            (brought["reject"], "refused"),
            (brought["unknown"], "lost"),
            (len(opened.left), "not there yet"),
        ]
        said = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        self._say(f"batch {remote_id}: {said or 'nothing new'}")


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """A call that may be made again, since it costs nothing."""
    trying = AsyncRetrying(
        retry=retry_if_exception_type(CallFailed),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    async for attempt in trying:
        with attempt:
            return await call()
    raise AssertionError("it either returned or raised")
