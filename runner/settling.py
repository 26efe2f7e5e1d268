"""What becomes of a record, written down: every outcome of the local half passes here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from escalation.policy import Acceptance, Routed, decide
from runner.errors import RecordError
from runner.ledger import CHOOSING, Ledger
from runner.prompts import Expression
from runner.types import Answer, DecidedBy, Outcome, Reason, Record, Status
from runner.watch import Watch


@dataclass(frozen=True, slots=True)
class Division:
    """``policy: budget``: every usable answer is held until the whole batch is answered.
    ``stakes``: what a wrong answer costs, in any unit; 1 for every record where None."""

    stakes: Expression | None

    def expected_loss(self, record: Record, answer: Answer) -> float:
        """(1 − confidence) × stakes.

        Raises:
            RecordError: the expression gives no number.
        """
        sure = answer.confidence if answer.confidence is not None else 0.0
        if self.stakes is None:
            return 1 - sure
        value = self.stakes.evaluate(record)
        try:
            return (1 - sure) * float(value)
        except (TypeError, ValueError):
            raise RecordError(
                f"{self.stakes.where} gives {value!r}, which is no number", Reason.BAD_PROMPT
            ) from None


class Settling:
    """Books outcomes. ``on_waiting`` rings when a record comes to wait for the closed model;
    ``watch`` draws the accepted records that are audited."""

    def __init__(
        self,
        ledger: Ledger,
        count: Callable[[Outcome], None],
        on_waiting: Callable[[], None],
        watch: Watch,
        *,
        can_escalate: bool,
        division: Division | None,
    ) -> None:
        self._ledger = ledger
        self._count = count
        self._on_waiting = on_waiting
        self._watch = watch
        self._can_escalate = can_escalate
        self._division = division

    def failed(self, record: Record, mark: str, problem: str, reason: str) -> None:
        status = Status.ERROR
        self.put(Outcome(record.position, record.id, status, reason=reason, error=problem), mark)

    def put(self, outcome: Outcome, mark: str) -> None:
        self._ledger.put(outcome, mark)
        self._count(outcome)

    def answered(
        self,
        record: Record,
        mark: str,
        answer: Answer,
        routed: Routed,
        rule: Acceptance,
        cost: Decimal,
    ) -> None:
        """Decides on a local answer."""
        if self._division is not None and answer.valid and routed.may_leave:
            loss = self._division.expected_loss(record, answer)
            self._hold(record, mark, Reason.EXPECTED_LOSS, cost, answer, loss)
            return
        if self._division is not None and answer.valid:
            rule = Acceptance(0.0)  # it may not leave, and no budget can change that
        decision = decide(answer, rule, may_leave=routed.may_leave)
        if decision.accept and routed.may_leave and self._watch.chosen(record):
            self._hold(record, mark, Reason.AUDIT, cost, answer)
        elif decision.accept:
            outcome = Outcome(
                record.position,
                record.id,
                Status.DONE,
                answer.value,
                DecidedBy.LOCAL,
                decision.reason,
                answer.confidence,
                answer.field_confidence,
                answer.model,
                closed_estimate=cost,
            )
            self.put(outcome, mark)
        elif decision.escalate and self._can_escalate:
            self._hold(record, mark, decision.reason, cost, answer)
        else:
            self.set_aside(record, mark, decision.reason, cost, answer)

    def route_closed(self, record: Record, mark: str, reason: str, cost: Decimal) -> None:
        """A record that goes to the closed model by rule; to a person where there is none."""
        if self._can_escalate:
            self._hold(record, mark, reason, cost)
        else:
            self.set_aside(record, mark, reason, cost)

    def set_aside(
        self, record: Record, mark: str, reason: str, cost: Decimal, answer: Answer | None = None
    ) -> None:
        """To a person's queue."""
        outcome = _unfinished(record, Status.REVIEW, reason, cost, answer)
        self._ledger.put(outcome, mark, held=record, answer=_kept(answer, self._watch.alarms))
        self._count(outcome)

    def _hold(
        self,
        record: Record,
        mark: str,
        reason: str,
        cost: Decimal,
        answer: Answer | None = None,
        expected_loss: float | None = None,
    ) -> None:
        """To the closed model's queue."""
        outcome = _unfinished(record, Status.WAITING, reason, cost, answer)
        self._ledger.put(
            outcome,
            mark,
            held=record,
            answer=_kept(answer, self._watch.alarms),
            waits_for=CHOOSING if expected_loss is not None else None,
            expected_loss=expected_loss,
        )
        self._count(outcome)
        self._on_waiting()


def _unfinished(
    record: Record, status: Status, reason: str, cost: Decimal, answer: Answer | None
) -> Outcome:
    return Outcome(
        record.position,
        record.id,
        status,
        reason=reason,
        confidence=answer.confidence if answer else None,
        field_confidence=answer.field_confidence if answer else {},
        model=answer.model if answer else None,
        error=answer.problem if answer else None,
        closed_estimate=cost,
    )


def _kept(answer: Answer | None, alarms: int) -> dict[str, object] | None:
    if answer is None:
        return None
    return {
        "value": answer.value,
        "model": answer.model,
        "signals": dict(answer.signals),
        "alarms": alarms,
    }
