"""The two decisions: where a record goes before any model, and what becomes of a local answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.job import Job
from runner.job_confidence import Confidence
from runner.prompts import Expression, TemplateAnswer
from runner.types import Answer, JSONValue, Reason, Record, Route


@dataclass(frozen=True, slots=True)
class Routed:
    """``may_leave`` is false for records that must stay on the machine whatever happens; ``rule``
    is the matching rule's place in ``routes``, and ``words`` its own reason, which is shown."""

    route: Route
    reason: Reason
    may_leave: bool = True
    value: JSONValue = None
    rule: int | None = None
    words: str | None = None


class Router:
    """The job's ``routes``, first match wins, and ``privacy.keep_local`` over all of them."""

    def __init__(self, job: Job) -> None:
        self._rules = [
            (
                Expression(rule.when, f"routes[{n}].when"),
                rule,
                TemplateAnswer(rule.answer, f"routes[{n}].answer")
                if rule.answer is not None
                else None,
            )
            for n, rule in enumerate(job.routes)
        ]
        keep = job.privacy.keep_local
        self._keep_local = Expression(keep, "privacy.keep_local") if keep else None

    def route(self, record: Record) -> Routed:
        """Raises `RecordError` where an expression fails on this record."""
        kept = self._keep_local is not None and bool(self._keep_local.evaluate(record))
        for n, (when, rule, answer) in enumerate(self._rules):
            if not when.evaluate(record):
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
        return _LOCAL[kept]


_LOCAL = [Routed(Route.LOCAL, Reason.CONFIDENT, may_leave=not kept) for kept in (False, True)]


@dataclass(frozen=True, slots=True)
class Decision:
    """``accept`` the local answer, or else ``escalate`` it, or else leave it to a person."""

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
    """What divides the records into strata; None where one threshold is for all of them."""
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
