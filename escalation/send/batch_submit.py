"""Sends ready records in a provider batch: reserves their cost, writes them down, then sends.

A crash between sending a batch and writing down its id loses the batch.
`escalation.send.batch_collect` finds it again or, once it was certainly never created, sends its
records again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from escalation.limits.daily_cap import Day
from escalation.limits.halt import Halt
from escalation.providers.batch_protocol import BatchApi, CallFailed, Part
from escalation.providers.protocol import Reply
from escalation.providers.request_bytes import body_bytes
from escalation.send.accounting import Booker
from escalation.send.closed_side import ClosedSide
from escalation.send.live import LiveSender
from runner.ledger import Batch, Held, Intent, Ledger
from runner.ledger.batches import new_mark
from runner.types import Event, Reason, Say, notice

MOST_BYTES = 64_000_000
"""The largest batch, since a batch is held in memory as a whole."""
BREATH = 64
MOST_ASKED = 20
"""How many polls (and as many intervals) a missing result gets before it counts as lost."""

Prepare = Callable[[Held], Awaitable[Mapping[str, Any] | None]]
"""A held record's request; None where it went to review instead."""
Then = Callable[[int, Reply], None]
"""What becomes of the record at a position after such a reply."""


@dataclass(frozen=True, slots=True)
class Chosen:
    request: Mapping[str, Any]
    intent: Intent


@dataclass(frozen=True, slots=True)
class Desk:
    """The objects shared by sending and collecting batches. ``say`` receives a notice per batch."""

    ledger: Ledger
    closed: ClosedSide
    booker: Booker
    asker: LiveSender
    halt: Halt
    day: Day | None
    say: Say

    @property
    def patience_s(self) -> float:
        """For how long what a provider must have may be missing."""
        batch = self.closed.settings.batch
        return max(batch.listed_within_s, MOST_ASKED * batch.poll_s)

    def facts(self, number: int, remote_id: str | None, requests: int) -> dict[str, Any]:
        """A batch, as each event of it has it. ``reserved_usd`` is what is set aside for those of
        its requests that have no result."""
        left = self.ledger.attempts.open_in(number)
        reserved = sum((usd for _, _, usd in left), Decimal(0))
        return {"batch": remote_id or str(number), "requests": requests, "reserved_usd": reserved}

    def again(self, position: int, reply: Reply) -> None:
        """What becomes of a record whose request was not done: it is sent again, but not for ever,
        and not where the provider refuses more than this request."""
        if reply.verdict != "retry":
            self.halt.tell(reply.problem)
            self.ledger.set_waits_for(position, Reason.PROVIDER_HALTED)
            return
        times = self.ledger.attempts.count(position)
        held = self.ledger.held(position)
        if times < self.closed.settings.max_attempts or held is None:
            self.ledger.choose([position])
        else:
            problem = f"{reply.problem}; sent {times} times"
            self.booker.to_review(held, Reply("reject", problem=problem))


class BatchSender:
    def __init__(self, desk: Desk, prepare: Prepare) -> None:
        self._desk = desk
        self._ledger = desk.ledger
        self._settings = desk.closed.settings
        self._price = desk.closed.price.in_batch()
        self._booker = desk.booker
        self._asker = desk.asker
        self._halt = desk.halt
        self._day = desk.day
        self._say = desk.say
        self._prepare = prepare

    async def send(self, api: BatchApi) -> int:
        """Sends one batch; returns how many records left the queue, sent or not."""
        most = min(self._settings.batch.max_requests, api.most_requests)
        taken = self._ledger.take_waiting(most)
        chosen, rest = await self._fitting(taken, min(MOST_BYTES, api.most_bytes))
        self._ledger.choose(held.record.position for held in rest)
        if chosen:
            await self._begin(api, chosen)
        self._ledger.commit()
        return len(taken) - len(rest)

    async def _fitting(self, taken: list[Held], most: int) -> tuple[list[Chosen], list[Held]]:
        """The records for this batch, their cost reserved, and those left for the next one."""
        chosen: list[Chosen] = []
        size, today = 0, self._left_today()
        for n, held in enumerate(taken):
            if n % BREATH == 0:
                await asyncio.sleep(0)
            request = await self._prepare(held)
            if request is None:
                continue
            body = body_bytes(request)
            if chosen and size + len(body) > most:
                return chosen, taken[n:]
            worst = self._price.worst_case(len(body), self._settings.max_tokens)
            if not self._affordable(held, worst, today):
                continue
            size, today = size + len(body), today - worst
            egress = self._booker.egress(body)
            intent = Intent(held.record.position, held.record.id, egress, worst)
            chosen.append(Chosen(request, intent))
        return chosen, []

    def _left_today(self) -> Decimal:
        return self._day.left() if self._day is not None else Decimal("Infinity")

    def _affordable(self, held: Held, worst: Decimal, today: Decimal) -> bool:
        if self._booker.too_dear(held, worst):
            return False
        position, budget = held.record.position, self._asker.budget
        if self._halt.reason is not None:
            self._ledger.set_waits_for(position, self._halt.reason)
        elif worst > today:
            self._ledger.set_waits_for(position, Reason.DAILY_BUDGET)
        elif not budget.take(worst):
            self._ledger.set_waits_for(position, Reason.BUDGET)
        else:
            return True
        self._asker.stop_if_broke(batched=True)
        return False

    async def _begin(self, api: BatchApi, chosen: list[Chosen]) -> None:
        number, budget = self._ledger.batches.next_id(), self._asker.budget
        reserved = sum((one.intent.worst_case for one in chosen), Decimal(0))
        if self._day is not None and not await self._day.reserve_batch(number, reserved):
            budget.settle(reserved, Decimal(0))  # another run was quicker
            self._halt.now(Reason.DAILY_BUDGET)
            return
        attempts = self._ledger.batches.begin(number, [one.intent for one in chosen])
        budget.settle(reserved, reserved)
        prefix = self.prefix(number)
        parts = [
            Part(f"{prefix}{attempt}", one.request)
            for attempt, one in zip(attempts, chosen, strict=True)
        ]
        await self._create(api, number, parts, prefix)

    def prefix(self, number: int) -> str:
        """Begins the names of a batch's parts, and of nobody else's."""
        mark = self._ledger.meta.batch_mark
        if mark is None:
            mark = new_mark()
            self._ledger.meta.batch_mark = mark
        return f"{mark}-{number}-"

    async def _create(self, api: BatchApi, number: int, parts: list[Part], prefix: str) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_not_taken),
            stop=stop_after_attempt(self._settings.max_attempts)
            | stop_before_delay(self._settings.retry_for_s),
            wait=_wait,
            sleep=self._halt.sleep,
            reraise=True,
        )
        try:
            remote_id: str = await retrying(api.create, parts, prefix)
        except CallFailed as error:
            reply = error.reply
        else:
            self._ledger.batches.sent(number, remote_id)
            said = f"batch {remote_id}: {len(parts):,} requests sent"
            facts = self._desk.facts(number, remote_id, len(parts))
            self._say(notice(Event.BATCH, said, state="sent", **facts))
            return
        if reply.verdict == "unknown":
            said = (
                f"a batch of {len(parts):,} requests may have been made or not ({reply.problem}): "
                "it will be looked for before anything of it is sent again"
            )
            facts = self._desk.facts(number, None, len(parts))
            self._say(notice(Event.MONEY_UNCLEAR, said, problem=reply.problem, **facts))
            return
        [batch] = [one for one in self._ledger.batches.open() if one.id == number]
        await self.release(batch, reply, lambda position, _: self._ledger.choose([position]))
        busy = reply.verdict == "retry"
        reason = Reason.PROVIDER_BUSY if busy else Reason.PROVIDER_HALTED
        self._halt.now(reason, reply.problem)

    async def release(self, batch: Batch, reply: Reply, then: Then) -> None:
        """Releases the money of a batch that the provider does not have or did not process;
        ``then`` handles each of its records."""
        back = Decimal(0)
        for attempt, position, reserved in self._ledger.attempts.open_in(batch.id):
            self._booker.unpaid(attempt, reply)
            then(position, reply)
            back += reserved
        self._ledger.batches.close(batch.id, "released", reply.problem)
        self._ledger.commit()
        self._asker.budget.refund(back)
        if self._day is not None:
            await self._day.settle_batch(batch.id, Decimal(0))


def _not_taken(error: BaseException) -> bool:
    return isinstance(error, CallFailed) and error.reply.verdict == "retry"


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.reply.retry_after_s if isinstance(error, CallFailed) else None
    pause: float = _BACKOFF(state) if asked is None else asked
    return pause


_BACKOFF = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
