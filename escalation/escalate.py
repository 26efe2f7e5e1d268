"""Waiting records → the closed model, one by one: redact → reserve → ask → settle → restore.

Every record that is to be escalated first gets its ``waiting`` row in the ledger; `Escalator`
works those rows off, during the run and after it alike. So what waits survives any crash, costs
no memory, and is sent later by the same code.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Protocol

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from escalation.budget import Budget
from escalation.prices import Price
from escalation.redact import Redactor, restore
from escalation.replies import Provider, Reply
from escalation.standing import STANDS, local_outcome
from runner.check import Checker
from runner.errors import RecordError
from runner.job import Escalation
from runner.ledger import Egress, Held, Ledger
from runner.prompts import Renderer
from runner.types import Answer, DecidedBy, JSONValue, Outcome, Reason, Status


class Sender(Protocol):
    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply: ...


@dataclass(frozen=True, slots=True)
class ClosedSide:
    """What a job's closed side consists of; `runner.build` puts it together."""

    settings: Escalation
    provider: Provider
    price: Price
    renderer: Renderer
    checker: Checker
    redactor: Redactor


class Escalator:
    """Sends what waits. ``on_outcome`` hears of every record that stops waiting, ``on_verdict`` of
    every accepted answer that was audited: whether it was wrong, and after how many alarms it was
    accepted."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
        on_verdict: Callable[[bool, int], None] = lambda wrong, alarms: None,
    ) -> None:
        self._ledger = ledger
        self._settings = settings = closed.settings
        self._provider = closed.provider
        self._price = closed.price
        self._renderer = closed.renderer
        self._checker = closed.checker
        self._redactor = closed.redactor
        self._on_outcome = on_outcome
        self._on_verdict = on_verdict
        self.budget = Budget(settings.budget_usd, ledger.attempts.committed_usd())
        self.stopped: str | None = None
        self.problem: str | None = None
        self._halted = asyncio.Event()
        self._backoff = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)

    def reconcile(self, former: Mapping[int, Reply]) -> None:
        """Settles the calls that a killed run had open, from what its courier wrote down."""
        for attempt, position, reserved in self._ledger.attempts.open_attempts():
            reply = former.get(attempt, Reply("unsent"))
            held = self._ledger.held(position)
            if held is None and reply.verdict == "ok":
                reply = Reply("unknown", problem="its record no longer waits")
            if reply.verdict == "ok" and held is not None:
                self._settle(held, attempt, reply, reserved)
            else:
                self._unpaid(attempt, reply)
                if held is not None and reply.verdict in ("unknown", "reject"):
                    self._to_review(held, reply)
        self._ledger.commit()
        self.budget = Budget(self._settings.budget_usd, self._ledger.attempts.committed_usd())

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
            self._to_review(held, reply, reason=error.reason)
            self._ledger.commit()
            return
        retrying = AsyncRetrying(
            retry=retry_if_result(self._worth_another),
            stop=stop_after_attempt(self._settings.max_attempts)
            | stop_after_delay(self._settings.retry_for_s),
            wait=self._pause,
            sleep=self._sleep,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        reply = await retrying(self._ask, sender, held, request)
        if reply is not None and reply.verdict == "retry":
            self._stop(Reason.PROVIDER_BUSY, reply)

    def _worth_another(self, reply: Reply | None) -> bool:
        """Not where the provider asks for a longer pause than we would retry at all."""
        if reply is None or reply.verdict != "retry":
            return False
        return (reply.retry_after_s or 0.0) <= self._settings.retry_for_s

    def _pause(self, state: RetryCallState) -> float:
        reply = state.outcome.result() if state.outcome else None
        asked = reply.retry_after_s if reply is not None else None
        pause: float = self._backoff(state) if asked is None else asked
        return pause

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, but not on after all sending has stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), seconds)

    async def _ask(self, sender: Sender, held: Held, request: Mapping[str, Any]) -> Reply | None:
        """One attempt: reserve, write down, send, settle. ``None`` where the cap forbids it."""
        body = body_bytes(request)
        worst = self._price.worst_case(len(body), self._settings.max_tokens)
        fits = self.stopped is None and await self.budget.reserve(worst)
        if fits and self.stopped is not None:  # while this one waited for its turn
            self.budget.settle(worst, Decimal(0))
            fits = False
        if not fits:
            self._ledger.set_waits_for(held.record.position, self.stopped or Reason.BUDGET)
            self._stop_if_broke()
            return None
        egress = Egress(
            self._provider.name,
            self._settings.model,
            self._settings.base_url or self._provider.url,
            len(body),
            hashlib.sha256(body).hexdigest(),
        )
        attempt = self._ledger.attempts.reserve(held.record, egress, worst)
        reply = await sender.send(attempt, request)
        cost = self._settle(held, attempt, reply, worst)
        self.budget.settle(worst, cost)
        self._ledger.commit()
        return reply

    def _settle(self, held: Held, attempt: int, reply: Reply, reserved: Decimal) -> Decimal:
        """Books a reply and the outcome that it brings; returns what it cost."""
        if reply.verdict != "ok":
            if reply.verdict == "halt":
                self._stop(Reason.PROVIDER_HALTED, reply)
            cost = self._unpaid(attempt, reply, reserved)
            if reply.verdict in ("unknown", "reject"):
                self._to_review(held, reply)
            return cost
        try:
            completion = self._provider.completion(reply.body or {})
        except ValueError as error:
            return self._settle(held, attempt, Reply("unknown", problem=str(error)), reserved)
        cost = self._price.cost(completion.usage)
        self._ledger.attempts.end_attempt(
            attempt, "settled", cost=cost, usage=asdict(completion.usage),
            request_id=reply.request_id,
        )  # fmt: skip
        completion = restore(completion, self._redactor.placeholders(held.record))
        answer = self._checker.check(completion)
        if answer.valid and held.reason == Reason.AUDIT and held.local is not None:
            self._audited(held, held.local["value"], answer)
        elif answer.valid:
            self._record(
                held, Status.DONE, held.reason, value=answer.value, by=DecidedBy.CLOSED,
                model=completion.model,
            )  # fmt: skip
        else:
            problem = f"{completion.model}: {answer.problem}"
            self._record(held, Status.REVIEW, Reason.CLOSED_INVALID, error=problem)
            self._ledger.reviews.keep_closed(held.record.position, answer.value)
        return cost

    def _audited(self, held: Held, local: JSONValue, answer: Answer) -> None:
        """Where both models agree the local answer stands; the paid one replaces a wrong one."""
        alarms = int((held.local or {}).get("alarms", 0))
        wrong = self._ledger.audits.add(held.record, local, answer.value, answer.model, alarms)
        if wrong:
            self._record(
                held, Status.DONE, held.reason, value=answer.value, by=DecidedBy.CLOSED,
                model=answer.model,
            )  # fmt: skip
        else:
            self._stands(held)
        self._on_verdict(wrong, alarms)

    def _stands(self, held: Held) -> None:
        outcome = local_outcome(held, self._ledger.attempts.paid_usd(held.record.position))
        self._ledger.change(outcome)
        self._on_outcome(outcome)

    def _unpaid(self, attempt: int, reply: Reply, reserved: Decimal = Decimal(0)) -> Decimal:
        """Ends an attempt without a usable reply; one that may be billed keeps its reservation."""
        unknown = reply.verdict == "unknown"
        self._ledger.attempts.end_attempt(
            attempt,
            "unknown" if unknown else "released",
            request_id=reply.request_id,
            problem=reply.problem,
        )
        return reserved if unknown else Decimal(0)

    def _to_review(self, held: Held, reply: Reply, reason: str | None = None) -> None:
        lost = Reason.REPLY_LOST if reply.verdict == "unknown" else Reason.REJECTED
        self._record(held, Status.REVIEW, reason or lost, error=reply.problem)

    def _record(
        self,
        held: Held,
        status: Status,
        reason: str,
        *,
        value: JSONValue = None,
        by: DecidedBy | None = None,
        model: str | None = None,
        error: str | None = None,
    ) -> None:
        if status is not Status.DONE and held.reason in STANDS and held.local is not None:
            self._stands(held)  # it was good enough without the closed model
            return
        outcome = Outcome(
            held.record.position,
            held.record.id,
            status,
            value=value,
            decided_by=by,
            reason=reason,
            confidence=held.confidence,
            field_confidence=held.field_confidence,
            model=model,
            cost_usd=self._ledger.attempts.paid_usd(held.record.position),
            error=error,
            closed_estimate=held.closed_estimate,
        )
        self._ledger.change(outcome)
        self._on_outcome(outcome)

    def _stop(self, reason: Reason, reply: Reply | None = None) -> None:
        if self.stopped is None:
            self.stopped, self.problem = reason, reply.problem if reply else None
            self._halted.set()

    def _stop_if_broke(self) -> None:
        """Where not even an empty record fits under the cap, no other will: stop looking."""
        least = self._price.worst_case(0, self._settings.max_tokens)
        if self.budget.cap - self.budget.spent < least:
            self._stop(Reason.BUDGET)


def body_bytes(request: Mapping[str, Any]) -> bytes:
    """The request's body to the byte as the provider's SDK sends it."""
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")
