"""What is known of right and wrong: the calibration's labels, audits, and people's decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from escalation.certify.calibration import NO_ANSWER, Calibration
from escalation.certify.calibration_file import load
from runner.errors import UsageError
from runner.job import Job
from runner.ledger import Ledger
from runner.types import WHOLE

BINS = 10
CURVE_POINTS = 300
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one confidence: its mean, how many, how many of them right."""

    confidence: float
    count: int
    right: int

    @property
    def share(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        n, p = self.count, self.share
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
        # Of all or none right, rounding puts an end on the wrong side of the share itself.
        return min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half))


@dataclass(frozen=True, slots=True)
class Labels:
    """The labelled sample. ``curve``: (coverage, risk) as the score falls, ``accepted`` and
    ``wrong_accepted`` at the certified thresholds."""

    source: str
    made: str
    count: int
    wrong: int
    bins: Sequence[Bin]
    curve: Sequence[tuple[float, float]]
    accepted: int
    wrong_accepted: int
    error_raw: float
    error_calibrated: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """``thresholds``: as confidences, by stratum ("" where there is one). ``missing``: why there
    are no labels, in a sentence. ``checked``: answers of this very run, audited or reviewed."""

    labels: Labels | None
    missing: str | None
    checked: Sequence[Bin]
    thresholds: dict[str, float]
    certificates: Sequence[dict[str, Any]]


def evidence(ledger: Ledger, job: Job) -> Evidence:
    certificates = ledger.meta.certificate or []
    calibration, missing = _calibration(ledger, job)
    given = job.confidence.threshold
    thresholds = {"": given} if given is not None else {}
    labels = None
    if calibration is not None:
        labels = _labels(calibration, certificates)
        thresholds = _as_confidences(calibration, certificates)
    return Evidence(labels, missing, _binned(ledger.answers.checked()), thresholds, certificates)


def _calibration(ledger: Ledger, job: Job) -> tuple[Calibration | None, str | None]:
    """The file that the run was begun with, or why there is none."""
    if not (job.confidence.certifies or job.confidence.policy == "budget"):
        return None, "The job names a threshold and no error, so it was never calibrated."
    if job.confidence.policy == "budget" and not job.calibration_path().is_file():
        return None, "The job was never calibrated."
    identity = ledger.meta.identity or {}
    try:
        calibration = load(job.calibration_path(), identity)
    except UsageError as error:
        return None, f"The calibration cannot be read any more: {error}."
    if job.identity()["calibration"] != identity.get("calibration"):
        return None, "The calibration was made anew since this run, which knew another one."
    return calibration, None


def _labels(calibration: Calibration, certificates: Sequence[dict[str, Any]]) -> Labels:
    sample = calibration.sample
    floors = {one["stratum"]: one["threshold"] for one in certificates}
    accepted = [
        one
        for one in sample
        if (floor := floors.get(one.stratum, floors.get(""))) is not None
        and one.score >= max(floor, NO_ANSWER + 1e-9)
    ]
    platt = calibration.platt.get(WHOLE)
    answered = [one for one in sample if one.score != NO_ANSWER]
    pairs = [(platt(one.score), one.wrong) for one in answered] if platt is not None else []
    return Labels(
        calibration.source,
        calibration.made,
        len(sample),
        sum(one.wrong for one in sample),
        _binned(pairs),
        _curve([(one.score, one.wrong) for one in sample]),
        len(accepted),
        sum(one.wrong for one in accepted),
        calibration.error_raw,
        calibration.error_calibrated,
    )


def _binned(pairs: Sequence[tuple[float, bool]]) -> list[Bin]:
    found: dict[int, list[tuple[float, bool]]] = {}
    for confidence, wrong in pairs:
        found.setdefault(min(BINS - 1, int(confidence * BINS)), []).append((confidence, wrong))
    return [
        Bin(sum(c for c, _ in group) / len(group), len(group), sum(not w for _, w in group))
        for _, group in sorted(found.items())
    ]


def _curve(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, float]]:
    """Between equal scores there is no threshold, so no point either."""
    ranked = sorted(pairs, key=lambda pair: -pair[0])
    points, wrong = [], 0
    for number, (score, is_wrong) in enumerate(ranked, 1):
        wrong += is_wrong
        if number == len(ranked) or ranked[number][0] != score:
            points.append((number / len(ranked), wrong / number))
    every = max(1, len(points) // CURVE_POINTS)
    return [point for n, point in enumerate(points) if n % every == 0 or n == len(points) - 1]


def _as_confidences(
    calibration: Calibration, certificates: Sequence[dict[str, Any]]
) -> dict[str, float]:
    platt = calibration.platt.get(WHOLE)
    if platt is None:
        return {}
    return {
        one["stratum"]: platt(max(0.0, one["threshold"]))
        for one in certificates
        if one["threshold"] is not None
    }
