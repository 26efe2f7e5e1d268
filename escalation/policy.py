"""The two decisions: how to route a record, and whether to accept its local answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from escalation.policy_notices import Notices
from runner.answering.prompts import Expression
from runner.answering.template_answers import TemplateAnswer
from runner.errors import RecordError
from runner.formats.typed_cells import FALSE
from runner.job import Job
from runner.job.confidence import Confidence
from runner.templates.columns_read import looked_at
from runner.types import Answer, JSONValue, Reason, Record, Route, Say


@dataclass(frozen=True, slots=True)
class Routed:
    """A record's route. ``may_leave`` is false for records that must never leave the machine;
    ``rule`` is the index of the matching rule in ``routes``, and ``words`` its stated reason."""

    route: Route
    reason: Reason
    may_leave: bool = True
    value: JSONValue = None
    rule: int | None = None
    words: str | None = None


class Router:
    """The job's ``routes``, first match wins, and ``privacy.keep_local`` over all of them.

    ``keep_local`` fails closed: a record stays on the machine unless the value is plainly false.
    ``say`` is notified once of each way in which an expression may not match as intended.
    """

    def __init__(self, job: Job, say: Say | None = None) -> None:
        self._notices = Notices(say)
        constraint = job.answer.constraint()
        self._rules = [
            (
                Expression(rule.when, f"routes[{n}].when"),
                rule,
                TemplateAnswer(rule.answer, f"routes[{n}].answer", constraint)
                if rule.answer is not None
                else None,
            )
            for n, rule in enumerate(job.routes)
        ]
        keep = job.privacy.keep_local
        self._keep_local = Expression(keep, "privacy.keep_local") if keep else None
        self._looked_at = sorted(looked_at(keep)) if keep else []

    def route(self, record: Record) -> Routed:
        """Raises `RecordError` where a rule fails on this record."""
        kept = self._keep_local is not None and self._stays(self._keep_local, record)
        for n, (when, rule, answer) in enumerate(self._rules):
            if not self._holds(when, record):
                continue
            may_leave = not (kept or rule.keep_local)
            own = rule.reason or None
            if answer is not None:
                value = answer.render(record)
                return Routed(Route.TEMPLATE, Reason.TEMPLATE, may_leave, value, n, own)
            if rule.to == "closed" and not may_leave:
                # High-stakes, but it may not leave: nobody but a person is left to decide.
                return Routed(Route.REVIEW, Reason.KEPT_LOCAL, False, rule=n)
            return Routed(Route(rule.to), Reason.RULE, may_leave, rule=n, words=own)
        return LOCAL_KEPT if kept else LOCAL

    def _stays(self, keep: Expression, record: Record) -> bool:
        """Whether ``privacy.keep_local`` is anything but false, or is false because of a null."""
        self._notices.near(keep, record)
        try:
            value = keep.evaluate(record)
        except RecordError as error:
            self._notices.stays(keep, record, str(error))
            return True
        if not _is_false(value):
            if value is None or isinstance(value, str):
                shown = "null" if value is None else f"the text {value[:40]!r}"
                self._notices.stays(keep, record, f"{keep.where} gives {shown}, not true or false")
            return True
        null = next((n for n in self._looked_at if record.fields.get(n, value) is None), None)
        if null is not None:
            self._notices.stays(
                keep,
                record,
                f"{keep.where} looks at `{null}`, which is null; where a null may leave, write "
                f"`({null} | default(''))`",
            )
        return null is not None

    def _holds(self, when: Expression, record: Record) -> bool:
        self._notices.near(when, record)
        value = when.evaluate(record)
        if isinstance(value, str) and value.strip().casefold() in FALSE:
            raise RecordError(
                f"{when.where} gives the text {value!r}, which is no false: any text holds; "
                "compare it (`== 'true'`), or give its column a type in `records.types`",
                Reason.BAD_PROMPT,
            )
        return bool(value)


def _is_false(value: object) -> bool:
    """False, or a database's 0."""
    return value is False or (isinstance(value, int | float | Decimal) and value == 0)


LOCAL = Routed(Route.LOCAL, Reason.CONFIDENT)
LOCAL_KEPT = Routed(Route.LOCAL, Reason.CONFIDENT, may_leave=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """Accept the local answer, else escalate the record, else send it to review."""

    accept: bool
    escalate: bool
    reason: Reason


_ACCEPTED = Decision(True, False, Reason.CONFIDENT)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Accept at a score of ``threshold`` and above; ``None`` accepts nothing, and ``nothing`` says
    why. ``escalate``: what is not accepted goes to the closed model, else to a person."""

    threshold: float | None
    escalate: bool = True
    nothing: Reason = Reason.UNCERTIFIED

    def of(self, record: Record) -> Acceptance:
        """The rule for one record: the same for all."""
        return self


@dataclass(frozen=True, slots=True)
class ByStratum:
    """An `Acceptance` for each value of an expression over the record; a value that no label had
    has no certificate, and nothing of it is accepted."""

    strata: Expression
    thresholds: Mapping[str, float | None]
    escalate: bool = True

    def of(self, record: Record) -> Acceptance:
        """Raises `RecordError` where the expression fails on this record."""
        return Acceptance(self.thresholds.get(stratum(self.strata, record)), self.escalate)


Rule = Acceptance | ByStratum
"""What a job accepts."""


def strata_of(confidence: Confidence) -> Expression | None:
    """The expression that divides records into strata; None if all share one threshold."""
    strata = confidence.strata
    return Expression(strata, "confidence.strata") if strata else None


def stratum(strata: Expression, record: Record) -> str:
    """The record's stratum, as text."""
    return str(strata.evaluate(record))


def decide(answer: Answer, rule: Acceptance, *, may_leave: bool) -> Decision:
    """Accepts a valid answer whose score reaches the threshold."""
    if not answer.valid:
        reason = Reason.INVALID
    elif rule.threshold is None:
        reason = rule.nothing
    elif answer.score is None and rule.threshold > 0:
        reason = Reason.NO_CONFIDENCE
    elif answer.score is not None and answer.score < rule.threshold:
        reason = Reason.UNSURE
    else:
        return _ACCEPTED
    return Decision(False, may_leave and rule.escalate, reason if may_leave else Reason.KEPT_LOCAL)
