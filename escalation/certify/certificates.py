"""Certifies a job's thresholds from its calibration, and builds the rule that uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from escalation.certify.accepted import Trust
from escalation.certify.calibration import NO_ANSWER, Calibration, Certifying
from escalation.certify.overall import certify_overall
from escalation.certify.thresholds import Certified, certify, certify_all, certify_strata
from escalation.policy import Acceptance, ByStratum, Rule, strata_of
from runner.job.confidence import Confidence
from runner.types import WHOLE, Name

ALL = ""
"""The stratum of a job without strata."""


def certified(
    calibration: Calibration, rule: Confidence, batch: str | None = None, *, tighten: float = 1.0
) -> Trust:
    """The loosest thresholds that the calibration's labels certify for the job's targets.

    Args:
        batch: SHA-256 of the records' file. If the labels were drawn from that file, the exact
            finite-population test replaces the binomial one.
        tighten: factor of every target.
    """
    groups: dict[str, list[Certifying]] = {}
    for one in calibration.sample:
        groups.setdefault(one.stratum if rule.strata else ALL, []).append(one)
    population = _population(calibration, batch)
    if rule.strata and rule.target_error is not None and not rule.fields:
        samples = {name: _columns(sample) for name, sample in sorted(groups.items())}
        targets = rule.target_error * tighten
        found = certify_strata(samples, targets=targets, delta=rule.delta)
    else:
        # Each stratum gets a share of δ, so that all certificates hold at once.
        delta = rule.delta / max(1, len(groups))
        batch_of = population if not rule.strata else None
        found = {
            name: _certify(sample, rule, delta, tighten, batch_of)
            for name, sample in sorted(groups.items())
        }
    return Trust(_rule(found, rule), calibration, found)


def _columns(sample: Sequence[Certifying]) -> tuple[list[float], list[bool]]:
    return [one.score for one in sample], [one.wrong for one in sample]


def _population(calibration: Calibration, batch: str | None) -> Sequence[float] | None:
    if calibration.batch is None or calibration.batch[0] != batch:
        return None
    return calibration.batch[1]


def _certify(
    sample: Sequence[Certifying],
    rule: Confidence,
    delta: float,
    tighten: float,
    population: Sequence[float] | None,
) -> Certified:
    scores, wrong = _columns(sample)
    if rule.target_error_overall is not None:
        closed = [one.closed_wrong for one in sample]
        target = rule.target_error_overall * tighten
        return certify_overall(
            scores, wrong, closed, target_error=target, delta=delta, population=population
        )
    assert rule.target_error is not None
    target = rule.target_error * tighten
    if not rule.fields:
        return certify(scores, wrong, target_error=target, delta=delta, population=population)
    wrongs: dict[Name, Sequence[bool]] = {WHOLE: wrong} | {
        # A record without a label for the field counts as wrong there.
        name: [one.wrong_fields.get(name, True) for one in sample]
        for name in rule.fields
    }
    targets: dict[Name, float] = {WHOLE: target}
    targets |= {name: each * tighten for name, each in rule.fields.items()}
    return certify_all(scores, wrongs, targets=targets, delta=delta, population=population)


def _rule(found: Mapping[str, Certified], rule: Confidence) -> Rule:
    escalates = rule.below == "escalate"
    thresholds = {name: _accepting(one.threshold) for name, one in found.items()}
    strata = strata_of(rule)
    if strata is None:
        return Acceptance(thresholds.get(ALL), escalates)
    return ByStratum(strata, thresholds, escalates)


def _accepting(threshold: float | None) -> float | None:
    """Keeps the threshold above `NO_ANSWER`: records without an answer are never accepted."""
    return None if threshold is None else max(threshold, NO_ANSWER + 1e-9)
