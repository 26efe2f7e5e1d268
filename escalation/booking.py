"""Writes down what paid calls brought: what they cost, and how their records end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal

from escalation.closed import ClosedSide
from escalation.redact import Placeholders, restore
from escalation.replies import Reply
from escalation.standing import STANDS, local_outcome
from runner.ledger import Egress, Held, Ledger
from runner.openai_lines import MOST_USD, most_usd
from runner.types import Answer, DecidedBy, JSONValue, Outcome, Reason, Status, Usage

_JOBS_CAP = (
    "`escalation.max_usd_per_record` of {cap}; decide it by hand, or raise that cap or lower "
    "`escalation.max_tokens` and take a new --run-dir"
)
_OWN_CAP = f"its own `{MOST_USD}` of {{cap}}; decide it by hand, or ask again with more"


@dataclass(frozen=True, slots=True)
class Booked:
    """What a call cost, and took, if that is known."""

    cost: Decimal
    usage: Usage | None = None


class Booker:
    """``on_outcome`` hears of every record that stops waiting, ``on_verdict`` of every accepted
    answer that was audited. ``placeholders``: those of records under way, by position, where they
    are known already. Whatever it writes is uncommitted until the ledger's next `commit`."""

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
        self._redactor = closed.redactor
        self._on_outcome = on_outcome
        self._on_verdict = on_verdict
        self.placeholders: dict[int, Placeholders] = {}

    def egress(self, body: bytes) -> Egress:
        """What is about to leave."""
        return Egress(
            self._provider.name,
            self._settings.model,
            self._settings.base_url or self._provider.url,
            len(body),
            hashlib.sha256(body).hexdigest(),
        )

    def settle(
        self, held: Held, attempt: int, reply: Reply, reserved: Decimal, *, batched: bool = False
    ) -> Booked:
        """Books a reply and the outcome that it brings; ``batched``: at the price in a batch."""
        if reply.verdict != "ok":
            cost = self.unpaid(attempt, reply, reserved)
            if reply.verdict in ("unknown", "reject"):
                self.to_review(held, reply)
            return Booked(cost)
        try:
            completion = self._provider.completion(reply.body or {})
        except ValueError as error:
            return self.settle(held, attempt, Reply("unknown", problem=str(error)), reserved)
        cost = self._prices[batched].cost(completion.usage)
        self._ledger.attempts.end_attempt(
            attempt, "settled", cost=cost, usage=asdict(completion.usage),
            request_id=reply.request_id,
        )  # fmt: skip
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
            self._record(held, Status.REVIEW, Reason.CLOSED_INVALID, error=problem)
            self._ledger.reviews.keep_closed(held.record.position, answer.value)
        return Booked(cost, completion.usage)

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
        """Over a cap for one record, the job's or its own, with what its former attempts cost: then
        a person has it."""
        jobs, own = self._settings.max_usd_per_record, most_usd(held.record.fields)
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

    def to_review(self, held: Held, reply: Reply, reason: str | None = None) -> None:
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
