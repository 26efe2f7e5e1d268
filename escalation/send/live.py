"""One record's request, sent until it is answered: caps, pace, breaker, retries.

Before a request leaves: the record's cap, the run's, its turn, the day's cap, and the ledger's row.
The last two in this order, so that a kill between them leaves too much reserved, never too little.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    wait_exponential,
    wait_random,
)

from escalation.limits.breaker import Breaker
from escalation.limits.budget import Budget
from escalation.limits.daily_cap import Day, Room
from escalation.limits.halt import Halt
from escalation.limits.rate import Flight, Pace
from escalation.providers.protocol import Reply
from escalation.providers.trouble import Trouble
from escalation.send.accounting import Booked, Booker
from escalation.send.closed_side import ClosedSide, Sender
from runner.errors import UsageError
from runner.ledger import Held, Ledger
from runner.types import Reason, Say

LATER_S = 0.2  # between two looks whether other runs' calls have left room under the day's cap


@dataclass(slots=True)
class _Call:
    """A record's request over all its attempts. Those that were the breaker's probes are on its
    account, not on the record's."""

    held: Held
    request: Mapping[str, Any]
    body: bytes
    worst: Decimal
    sender: Sender
    probes: int = 0
    since: float = field(default_factory=time.monotonic)
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _Turn:
    flight: Flight
    probe: bool


class LiveSender:
    """Asks for one record at a time; many may be asked for at once."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        booker: Booker,
        halt: Halt,
        day: Day | None,
        say: Say,
    ) -> None:
        self._ledger = ledger
        self._closed = closed
        self._settings = settings = closed.settings
        self._booker = booker
        self._halt = halt
        self._day = day
        self._reserving = asyncio.Lock()
        self._backoff = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
        self._pace = Pace(settings.max_tokens, settings.requests_per_minute)
        self._breaker = Breaker(settings.retry_for_s)
        self._trouble = Trouble(settings, say)
        self.budget = Budget(settings.budget_usd, ledger.attempts.committed_usd())

    def money_left(self) -> Decimal:
        """Under the run's cap and the day's."""
        try:
            day = self._day.left() if self._day is not None else self.budget.left
        except UsageError as error:
            self._halt.now(Reason.PROVIDER_HALTED, str(error))
            return Decimal(0)
        return min(self.budget.left, day)

    async def ask(
        self, sender: Sender, held: Held, request: Mapping[str, Any], body: bytes
    ) -> None:
        """Asks until the record has an outcome or a reason to wait."""
        worst = self._closed.price.worst_case(len(body), self._settings.max_tokens)
        call = _Call(held, request, body, worst, sender)
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda reply: self._worth_another(call, reply)),
            stop=lambda state: self._enough(call, state),
            wait=self._wait,
            sleep=self._halt.sleep,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        try:
            reply: Reply | None = await retrying(self._attempt, call)
        except UsageError as error:  # the spend file: it halts the sending, not the run
            self._halt.now(Reason.PROVIDER_HALTED, str(error))
            self._waits(call)
            return
        if reply is not None and reply.verdict == "retry":
            self._stop(*self._trouble.end(reply))

    def _left_s(self, call: _Call) -> float:
        return self._settings.retry_for_s - (time.monotonic() - call.since)

    def _worth_another(self, call: _Call, reply: Reply | None) -> bool:
        """Not where the provider asks for a longer pause than we would still retry at all."""
        if reply is None or reply.verdict != "retry":
            return False
        return (reply.retry_after_s or 0.0) <= self._left_s(call)

    def _enough(self, call: _Call, state: RetryCallState) -> bool:
        attempts = state.attempt_number - call.probes
        return (
            attempts >= self._settings.max_attempts
            or self._left_s(call) <= 0
            or self._breaker.given_up
        )

    def _wait(self, state: RetryCallState) -> float:
        reply = state.outcome.result() if state.outcome else None
        asked = reply.retry_after_s if reply is not None else None
        pause: float = self._backoff(state) if asked is None else asked
        return pause

    async def _attempt(self, call: _Call) -> Reply | None:
        """Makes one attempt; returns ``None`` if it is not allowed."""
        if self._booker.too_dear(call.held, call.worst):
            return None
        if self._halt.reason is not None or not await self.budget.reserve(call.worst):
            self._waits(call, Reason.BUDGET)
            self.stop_if_broke()
            return None
        cost = Decimal(0)
        try:
            turn = await self._turn(call)
            attempt = await self._written_down(call) if turn is not None else None
            if turn is None or attempt is None:
                self._over(call, turn, None, Booked(cost))
                self._waits(call, Reason.DAILY_BUDGET)
                return None
            cost = call.worst  # until it is known better
            reply, booked = await self._sent(call, attempt, turn)
            cost = booked.cost
        finally:
            self.budget.settle(call.worst, cost)
        self._ledger.commit()
        if self._day is not None and call.worst:
            await self._day.settle(attempt, cost)
        return reply

    def _stop(self, reason: Reason, problem: str | None) -> None:
        """No more is sent, and what was known of the provider's limits is old by the next start."""
        self._halt.now(reason, problem)
        self._pace.forget()

    async def _turn(self, call: _Call) -> _Turn | None:
        """When the provider is well and will take it; ``None`` where sending stopped before."""
        while self._halt.reason is None:
            size = len(call.body)
            pause = max(self._pace.pause(size), self._breaker.pause())
            if pause <= 0:
                return _Turn(self._pace.begin(size), self._breaker.begin())
            if (busy := self._pace.refused_for(size)) > self._settings.retry_for_s:
                problem = f"the provider's rate limit is used up for another {busy:,.0f} s"
                self._stop(Reason.PROVIDER_BUSY, problem)
            await self._halt.sleep(pause)
        return None

    async def _written_down(self, call: _Call) -> int | None:
        """The attempt's id, once the day's cap and the ledger have it; ``None`` where it does not
        fit, or sending stopped."""
        while self._halt.reason is None:
            async with self._reserving:  # so that the next attempt's id is this one's
                attempt = self._ledger.attempts.next_id()
                room = Room.YES
                if self._day is not None and call.worst:
                    room = await self._day.reserve(attempt, call.worst)
                if room is Room.YES:
                    return await self._entered(call, attempt)
            if room is Room.NO:
                self.stop_if_broke()
                return None
            await self._halt.sleep(LATER_S)
        return None

    async def _entered(self, call: _Call, attempt: int) -> int | None:
        if self._halt.reason is None:
            egress = self._booker.egress(call.body)
            return self._ledger.attempts.reserve(call.held.record, egress, call.worst)
        if self._day is not None:  # sending stopped while other processes had the file
            await self._day.settle(attempt, Decimal(0))
        return None

    async def _sent(self, call: _Call, attempt: int, turn: _Turn) -> tuple[Reply, Booked]:
        if not call.sent:
            call.sent, call.since = True, time.monotonic()
        reply, booked = None, Booked(Decimal(0))
        try:
            reply = await call.sender.send(attempt, call.request)
            booked = self._booker.settle(call.held, attempt, reply, call.worst)
        finally:
            self._over(call, turn, reply, booked)
        self._trouble.heard(reply, storm=self._breaker.open)
        if reply.verdict == "halt":
            self._halt.now(Reason.PROVIDER_HALTED, reply.problem)
        elif (
            self._breaker.given_up and reply.overloaded
        ):  # a probe that may be billed is not tried again by itself
            self._stop(*self._trouble.end(reply))
        return reply, booked

    def _over(self, call: _Call, turn: _Turn | None, reply: Reply | None, booked: Booked) -> None:
        if turn is None:
            return
        self._pace.end(turn.flight, reply, booked.usage)
        self._breaker.end(turn.probe, reply)
        call.probes += turn.probe and reply is not None

    def _waits(self, call: _Call, reason: Reason = Reason.PROVIDER_HALTED) -> None:
        self._ledger.set_waits_for(call.held.record.position, self._halt.reason or reason)

    def stop_if_broke(self, *, batched: bool = False) -> None:
        """Stops sending when not even an empty record fits under a cap."""
        price = self._closed.price.in_batch() if batched else self._closed.price
        least = price.worst_case(0, self._settings.max_tokens)
        if self.budget.cap - self.budget.spent < least:
            self._halt.now(Reason.BUDGET)
        elif self._day is not None and least and self._day.full(least):
            self._halt.now(Reason.DAILY_BUDGET)
