"""Certified error against coverage and spend, and what it would take to certify more.

With a calibration, each target's thresholds are those that `surelocal calibrate` would certify,
and the pilot shows how much they accept and what the rest costs. Without, nothing can be certified:
then the same is said as if the model's own probabilities were right, which is an indication and no
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from escalation.certify.binomial import fewest_labels, labels_enough
from escalation.certify.calibration import Calibration, training_share
from escalation.certify.certificates import certified
from escalation.certify.neighbour_support import FEWEST
from escalation.certify.scorer import Scorer
from escalation.policy import Rule, decide
from runner.job import Job
from runner.job.confidence import Confidence
from runner.pipeline import assemble
from runner.quote.intervals import Range, count_in
from runner.quote.money import way
from runner.quote.pilot import Pilot, Seen, rescored
from runner.records.source import job_digest
from runner.status.curves import TARGETS

EVERY = (0.005, *TARGETS)


@dataclass(frozen=True, slots=True)
class Point:
    """``accepted`` of the answered and ``escalated`` of all records, by the pilot; ``usd`` is what
    the escalated cost live, nothing cached and no audits. ``certified``: whether labels certify it;
    else ``labels_needed`` is about how many would, None where no number does."""

    target: float
    certified: bool
    accepted: Range
    escalated: Range
    usd: Range
    labels_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """``labels``: how many certify; None where there is no calibration, and then the points are
    only an indication. ``answered``: about how many records get a local answer."""

    points: Sequence[Point]
    labels: int | None
    source: str | None
    delta: float
    overall: bool
    answered: int


def curve_of(job: Job, pilot: Pilot, calibration: Calibration | None) -> Curve:
    """``calibration``: of this very job (`escalation.certify.calibration_file.load`), or None. The
    pilot must hold a local answer."""
    rule = job.confidence
    overall = rule.target_error_overall is not None
    answered = _answered(pilot)
    if calibration is None:
        points = _indicated(job, pilot)
        return Curve(points, None, None, rule.delta, False, answered)
    seen = _judged(job, pilot.seen, calibration)
    batch = job_digest(job) if calibration.batch is not None else None
    points = []
    for target in EVERY:
        trust = certified(calibration, _aiming_at(rule, target), batch)
        found = list((trust.certificates or {}).values())
        holds = any(one.threshold is not None for one in found)
        needs = [one.labels_needed for one in found if one.threshold is None]
        known = [need for need in needs if need is not None]
        needed = max(known) + calibration.training if len(known) == len(needs) > 0 else None
        if needed is not None:
            needed = min(needed, max(one.population or needed for one in found))
        points.append(_point(target, holds, seen, pilot, trust.rule, needed))
    labels = len(calibration.sample) + calibration.training
    return Curve(points, labels, calibration.source, rule.delta, overall, answered)


def _answered(pilot: Pilot) -> int:
    return max(pilot.answered, round(pilot.size * pilot.answered / len(pilot.seen)))


def _aiming_at(rule: Confidence, target: float) -> Confidence:
    """The job's rule at another target; a job with a bare threshold gets its first."""
    if rule.target_error_overall is not None:
        return rule.model_copy(update={"target_error_overall": target})
    return rule.model_copy(update={"target_error": target, "threshold": None, "policy": "error"})


def _judged(job: Job, seen: Sequence[Seen], calibration: Calibration) -> list[Seen]:
    """With scores by the calibration: a run with a bare threshold has none of it."""
    scorer, renderer = Scorer(calibration, calibration.support), assemble.renderer(job)
    found = []
    for one in seen:
        if one.answer is not None and one.record is not None and not one.answer.calibrated:
            text = renderer.render(one.record).messages[-1].content
            one = replace(one, answer=rescored(one, scorer, text))
        found.append(one)
    return found


def _point(
    target: float, holds: bool, seen: Sequence[Seen], pilot: Pilot, rule: Rule, needed: int | None
) -> Point:
    accepted, sent = 0, list[Decimal]()
    for one in seen:
        if one.answer is None or one.record is None:
            sent += [one.usd] if one.escalated else []
            continue
        decision = decide(one.answer, rule.of(one.record), may_leave=one.may_leave)
        accepted += decision.accept
        sent += [one.usd] if decision.escalate and pilot.can_escalate else []
    return _counted(target, holds, pilot, accepted, sent, needed)


def _counted(
    target: float,
    holds: bool,
    pilot: Pilot,
    accepted: int,
    sent: Sequence[Decimal],
    needed: int | None,
) -> Point:
    drawn = len(pilot.seen)
    cost = way("", sent, [one.usd for one in pilot.seen], pilot.size)
    return Point(
        target,
        holds,
        count_in(_answered(pilot), pilot.answered, accepted),
        count_in(pilot.size, drawn, len(sent)),
        cost.plain,
        needed,
    )


def _indicated(job: Job, pilot: Pilot) -> list[Point]:
    """As if a confidence were the probability of being right, with the surest first."""
    ranked = sorted(
        (one for one in pilot.seen if one.answer is not None),
        key=lambda one: -_sureness(one),
    )
    fixed = [one.usd for one in pilot.seen if one.answer is None and one.escalated]
    # Of as many answers as the pilot has: how many of the surest k would be wrong.
    wrong = np.cumsum([1 - _sureness(one) for one in ranked])
    sends = pilot.can_escalate and job.confidence.below == "escalate"
    points = []
    for target in EVERY:
        safe = np.flatnonzero(wrong <= target * np.arange(1, len(ranked) + 1))
        accepted = int(safe[-1]) + 1 if len(safe) else 0
        unsure = [one.usd for one in ranked[accepted:] if one.may_leave and sends]
        sent = [*fixed, *unsure]
        needed = _needed(job, wrong, target, _answered(pilot))
        points.append(_counted(target, False, pilot, accepted, sent, needed))
    return points


def _sureness(seen: Seen) -> float:
    answer = seen.answer
    return answer.score if answer is not None and answer.valid and answer.score is not None else 0.0


def _needed(job: Job, wrong: np.ndarray, target: float, local: int) -> int | None:
    """Labels, those that teach the calibration included, or all; None where none would do."""
    delta = job.confidence.delta
    errors = np.round(wrong).astype(np.int64)
    certifying = labels_enough(errors, target, delta)
    if certifying is None:
        return None
    certifying = max(certifying, fewest_labels(target, delta))
    trains = job.confidence.looks.any() or job.confidence.reference >= FEWEST
    total = certifying
    while trains and total - training_share(total) < certifying:
        total += 1
    return min(total, local)
