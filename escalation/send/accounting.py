"""Books paid calls: their cost, and the outcome of their records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from escalation.providers.prices import times
from escalation.providers.protocol import Reply, bare
from escalation.redact import Placeholders, restore
from escalation.send.closed_side import ClosedSide
from escalation.send.local_fallback import STANDS, local_outcome
from runner.errors import SureLocalError
from runner.formats.foreign_json import one_line
from runner.formats.openai_request import MOST_USD
from runner.formats.urls import showable
from runner.ledger import Egress, Held, Ledger
from runner.types import Answer, DecidedBy, JSONValue, Outcome, Reason, Status, Usage

_JOBS_CAP = (
    "`escalation.max_usd_per_record` of {cap}; decide it by hand, or raise that cap or lower "
    "`escalation.max_tokens` and take a new --run-dir"
)
_OWN_CAP = f"its own `{MOST_USD}` of {{cap}}; decide it by hand, or ask again with more"


@dataclass(frozen=True, slots=True)
class Booked:
    """A call's cost, and its token usage if known."""

    cost: Decimal
    usage: Usage | None = None


class Booker:
    """Books replies. ``on_outcome`` is called for each record that stops waiting, ``on_verdict``
    for each audited accepted answer. ``placeholders`` caches those of records under way.
    Its writes stay uncommitted until the ledger's next `commit`."""

    def __init__(
        self,
        ledger: Ledger,
        closed: ClosedSide,
        on_outcome: Callable[[Outcome], None],
        on_verdict: Callable[[bool, int], None],
    ) -> None:
        self._ledger = ledger
        self._settings = closed.settings
        self._provider = closed.provider
        self._prices = {False: closed.price, True: closed.price.in_batch()}
        self._checker = closed.checker
        self._most_usd = closed.renderer.most_usd
        self._redactor = closed.redactor
        self._on_outcome = on_outcome
        self._on_verdict = on_verdict
        self.placeholders: dict[int, Placeholders] = {}

    def egress(self, body: bytes) -> Egress:
        """The egress entry of a request about to be sent."""
        return Egress(
            self._settings.provider,
            self._settings.model,
            showable(self._settings.address),
            len(body),
            hashlib.sha256(body).hexdigest(),
        )

    def settle(
        self,
        held: Held | None,
        attempt: int,
        reply: Reply,
        reserved: Decimal,
        *,
        batched: bool = False,
    ) -> Booked:
        """Books a reply together with the outcome that it brings; ``batched``: at the price in a
        batch. ``held``: None where its record no longer waits.

        An error in a reply's contents affects only its record: the record goes to review, and the
        reservation counts as spent.
        """
        try:
            with self._ledger.together():
                return self._settled(held, attempt, reply, reserved, batched)
        except SureLocalError:
            raise  # the disk, not the reply
        except Exception as error:
            why = one_line(f"{type(error).__name__}: {error}")
            lost = Reply("unknown", problem=f"its reply could not be booked: {why}")
            with self._ledger.together():
                return self._settled(held, attempt, lost, reserved, batched)

    def _settled(
        self, held: Held | None, attempt: int, reply: Reply, reserved: Decimal, batched: bool
    ) -> Booked:
        if reply.verdict != "ok":
            cost = self.unpaid(attempt, reply, reserved)
            if held is not None and reply.verdict in ("unknown", "reject"):
                self.to_review(held, reply)
            return Booked(cost)
        booked = self._billed(attempt, reply, reserved, batched)
        if held is not None:
            self._answered(held, reply.body or {}, paid=booked.usage is not None)
        return booked

    def _billed(self, attempt: int, reply: Reply, reserved: Decimal, batched: bool) -> Booked:
        """Books the cost that the reply states; an unreadable bill counts as its reservation."""
        try:
            bill = self._provider.bill(reply.body or {})
        except ValueError as error:
            problem = f"what it cost cannot be read: {error}"
            lost = Reply("unknown", request_id=reply.request_id, problem=problem)
            return Booked(self.unpaid(attempt, lost, reserved))
        cost = self._prices[batched].cost(bill.usage)
        factor = times(self._settings.provider, bill.served)
        cost = max(cost, reserved) if factor is None else cost * factor
        self._ledger.attempts.end_attempt(
            attempt, "settled", cost=cost, usage=asdict(bill.usage), request_id=reply.request_id
        )
        return Booked(cost, bill.usage)

    def _answered(self, held: Held, body: Mapping[str, Any], *, paid: bool) -> None:
        try:
            completion = self._provider.completion(body)
        except ValueError as error:
            reason = Reason.CLOSED_INVALID if paid else Reason.REPLY_LOST
            self._record(held, Status.REVIEW, reason, error=str(error))
            return
        completion = bare(completion, self._checker.constraint)
        known = self.placeholders.get(held.record.position)
        completion = restore(completion, known or self._redactor.placeholders(held.record))
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
            self._ledger.reviews.keep_closed(held.record.position, answer.value)
            self._record(held, Status.REVIEW, Reason.CLOSED_INVALID, error=problem)

    def _audited(self, held: Held, local: JSONValue, answer: Answer) -> None:
        """Keeps the local answer if both models agree, else replaces it with the paid one."""
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

    def unpaid(self, attempt: int, reply: Reply, reserved: Decimal = Decimal(0)) -> Decimal:
        """Ends an attempt without a usable reply; one that may be billed keeps its reservation."""
        unknown = reply.verdict == "unknown"
        self._ledger.attempts.end_attempt(
            attempt,
            reply.verdict if reply.verdict in ("unknown", "unsent") else "released",
            request_id=reply.request_id,
            problem=reply.problem,
        )
        return reserved if unknown else Decimal(0)

    def too_dear(self, held: Held, worst: Decimal) -> bool:
        """Whether a record's former attempts and this one could exceed the job's or the record's
        cap; if so, the record goes to review."""
        jobs, own = self._settings.max_usd_per_record, self._most_usd(held.record)
        caps = ((jobs, _JOBS_CAP), (own, _OWN_CAP))
        given = [(cap, words) for cap, words in caps if cap is not None]
        if not given:
            return False
        cap, words = min(given)
        most = self._ledger.attempts.paid_usd(held.record.position) + worst
        if most <= cap:
            return False
        problem = f"not sent: it could cost ${most:.6f}, more than {words.format(cap=f'${cap:f}')}"
        self.to_review(held, Reply("reject", problem=problem), Reason.RECORD_TOO_DEAR)
        self._ledger.commit()
        return True

    def to_review(self, held: Held, reply: Reply, reason: Reason | None = None) -> None:
        lost = Reason.REPLY_LOST if reply.verdict == "unknown" else Reason.REJECTED
        self._record(held, Status.REVIEW, reason or lost, error=reply.problem)

    def _record(
        self,
        held: Held,
        status: Status,
        reason: Reason,
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
            words=held.words if reason is held.reason else None,
        )
        self._ledger.change(outcome)
        self._on_outcome(outcome)
