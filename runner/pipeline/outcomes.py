"""What becomes of a record, written down: every outcome of the local half passes here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from escalation.certify.score_fusion import PROBABILITY, SUPPORT
from escalation.limits.local_guard import Guard, fault_of
from escalation.policy import LOCAL, Acceptance, Routed, decide
from runner.answering.extra_signals import AGREEMENT, P_TRUE, WORDING
from runner.answering.prompts import Expression
from runner.errors import RecordError
from runner.ledger import CHOOSING, Ledger
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.types import Answer, DecidedBy, Outcome, Reason, Record, Status, frozen

JUDGING = (PROBABILITY, SUPPORT, P_TRUE, WORDING, AGREEMENT)
Note = dict[str, Any]
"""What the trail keeps of a decision, and the outcome itself does not say."""


@dataclass(frozen=True, slots=True)
class Stakes:
    """``policy: budget``: every usable answer is held until the whole batch is answered.
    ``stakes``: what a wrong answer costs, in any unit; 1 for every record where None."""

    stakes: Expression | None

    def expected_loss(self, record: Record, answer: Answer) -> float:
        """(1 − confidence) × stakes.

        Raises:
            RecordError: the expression gives no number, or one below 0.
        """
        sure = answer.confidence if answer.confidence is not None else 0.0
        if self.stakes is None:
            return 1 - sure
        value = self.stakes.evaluate(record)
        try:
            stakes = float(value)
        except (TypeError, ValueError, OverflowError):
            stakes = math.nan
        if not (0 <= stakes < math.inf):
            raise RecordError(
                f"{self.stakes.where} gives {value!r}, which is no number from 0 up",
                Reason.BAD_PROMPT,
            )
        return (1 - sure) * stakes


@frozen
class Case:
    """A record on its way: its fields' digest, how it was routed, and what the closed model would
    cost for it, in US dollars."""

    record: Record
    digest: str
    routed: Routed = LOCAL
    cost: Decimal = Decimal(0)


class Outcomes:
    """Books outcomes. ``on_waiting`` rings when a record comes to wait for the closed model;
    ``monitor`` draws the accepted records that are audited; ``guard`` hears of every answer."""

    def __init__(
        self,
        ledger: Ledger,
        count: Callable[[Outcome], None],
        on_waiting: Callable[[], None],
        monitor: CertificateMonitor,
        guard: Guard | None,
        *,
        can_escalate: bool,
        division: Stakes | None,
    ) -> None:
        self._ledger = ledger
        self._count = count
        self._on_waiting = on_waiting
        self._monitor = monitor
        self._guard = guard
        self._can_escalate = can_escalate
        self._division = division

    def failed(self, case: Case, problem: str, reason: Reason) -> None:
        record, status = case.record, Status.ERROR
        outcome = Outcome(record.position, record.id, status, reason=reason, error=problem)
        self._put(outcome, case, {"line": record.line})

    def by_template(self, case: Case) -> None:
        routed = case.routed
        outcome = Outcome(
            case.record.position,
            case.record.id,
            Status.DONE,
            routed.value,
            DecidedBy.TEMPLATE,
            routed.reason,
            closed_estimate=case.cost,
            words=routed.words,
        )
        self._put(outcome, case, noted(case))

    def _put(self, outcome: Outcome, case: Case, note: Note) -> None:
        self._ledger.put(outcome, case.digest, note=note)
        self._count(outcome)

    def answered(self, case: Case, answer: Answer) -> None:
        """Decides on a local answer, by the rule as it is now: an alarm may have changed it while
        the answer was made."""
        record, may_leave = case.record, case.routed.may_leave
        rule = self._monitor.rule.of(record)
        note = noted(case, answer, self._monitor.alarms)
        fault = fault_of(answer, rule.threshold if self._division is None else None)
        if fault is not None:
            note["fault"] = fault
        if self._guard is not None:
            self._guard.saw(fault)
        if self._division is not None and answer.valid and may_leave:
            note["expected_loss"] = self._division.expected_loss(record, answer)
            self._held(case, (Status.WAITING, Reason.EXPECTED_LOSS), note, answer)
            return
        if self._division is not None and answer.valid:
            rule = Acceptance(0.0)  # it may not leave, and no budget can change that
        note["threshold"] = rule.threshold
        decision = decide(answer, rule, may_leave=may_leave)
        if decision.accept and may_leave and self._monitor.chosen(record):
            self._held(case, (Status.WAITING, Reason.AUDIT), note, answer)
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
                closed_estimate=case.cost,
            )
            self._put(outcome, case, note)
        else:
            waits = decision.escalate and self._can_escalate
            status = Status.WAITING if waits else Status.REVIEW
            self._held(case, (status, decision.reason), note, answer)

    def route_closed(self, case: Case) -> None:
        """A record that goes to the closed model by rule; to a person where there is none."""
        self._by_rule(case, Status.WAITING if self._can_escalate else Status.REVIEW)

    def set_aside(self, case: Case) -> None:
        """To a person's queue, by rule."""
        self._by_rule(case, Status.REVIEW)

    def too_long(self, case: Case, where: str) -> None:
        """A record that the local model cannot hold, to where the job says."""
        case = replace(case, routed=replace(case.routed, reason=Reason.TOO_LONG, words=None))
        leaves = where == "escalate" and case.routed.may_leave
        (self.route_closed if leaves else self.set_aside)(case)

    def _by_rule(self, case: Case, status: Status) -> None:
        outcome = Outcome(
            case.record.position,
            case.record.id,
            status,
            reason=case.routed.reason,
            closed_estimate=case.cost,
            words=case.routed.words,
        )
        self._keep(outcome, case, noted(case))

    def _held(self, case: Case, end: tuple[Status, Reason], note: Note, answer: Answer) -> None:
        """A local answer that does not stand, or not yet."""
        status, reason = end
        outcome = Outcome(
            case.record.position,
            case.record.id,
            status,
            reason=reason,
            confidence=answer.confidence,
            field_confidence=answer.field_confidence,
            model=answer.model,
            error=answer.problem,
            closed_estimate=case.cost,
        )
        # It may never become the outcome, and then only the trail has it.
        note = note | {"answer": answer.value}
        self._keep(outcome, case, note, _kept(answer, self._monitor.alarms))

    def _keep(
        self, outcome: Outcome, case: Case, note: Note, answer: dict[str, object] | None = None
    ) -> None:
        """A record that is not done, with all that its later decision needs. One with an expected
        loss is held until the whole batch is answered; any other that waits can be sent now."""
        loss = note.get("expected_loss")
        waits_for = CHOOSING if loss is not None else None
        if waits_for is None and outcome.status is Status.WAITING and self._guarded(outcome):
            waits_for = Reason.GUARDED
        self._ledger.put(
            outcome,
            case.digest,
            held=case.record,
            answer=answer,
            waits_for=waits_for,
            expected_loss=loss,
            note=note,
        )
        self._count(outcome)
        if outcome.status is Status.WAITING:
            self._on_waiting()

    def _guarded(self, outcome: Outcome) -> bool:
        guard, reason = self._guard, outcome.reason
        return guard is not None and reason is not None and guard.holds(reason)


def _kept(answer: Answer, alarms: int) -> dict[str, object]:
    return {
        "value": answer.value,
        "model": answer.model,
        "signals": dict(answer.signals),
        "alarms": alarms,
    }


def noted(case: Case, answer: Answer | None = None, alarms: int | None = None) -> Note:
    """How it was routed, and what its local answer was judged by: the signals that make a
    calibrated score, to six digits. An answer that is not calibrated has its probability for a
    score, and the outcome says it."""
    note: Note = {"line": case.record.line}
    if case.routed.rule is not None:
        note["rule"] = case.routed.rule
    if not case.routed.may_leave:
        note["kept_local"] = True
    if answer is not None and answer.calibrated:
        note["score"] = answer.score
        note["signals"] = {
            name: float(f"{value:.6g}")
            for name, value in answer.signals.items()
            if name.rpartition(".")[2] in JUDGING
        }
    if answer is not None:
        note["tokens"] = [answer.input_tokens, answer.output_tokens]
    if alarms:
        note["alarms"] = alarms
    return note
