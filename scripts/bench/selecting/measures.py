"""Selective risk, AURC, coverage: the measures, and the pools they are taken on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from escalation.certify.calibration import IDENTITY, PEOPLE, Labelled, calibrate
from escalation.certify.neighbour_support import Support
from selecting.answers import Flags, Floats, Question

POOLS = {"in scope": True, "+ 18 % out of scope": False}
REFERENCE = 2000


def pool_of(questions: Sequence[Question], inside_only: bool) -> list[Question]:
    return [q for q in questions if q.inside or not inside_only]


def wrong_of(questions: Sequence[Question]) -> Flags:
    return np.array([q.wrong for q in questions])


def risks(score: Floats, wrong: Flags) -> Floats:
    """Selective risk at each coverage k / n, k = 1 … n."""
    order = np.argsort(-score, kind="stable")
    risk: Floats = np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)
    return risk


def aurc(score: Floats, wrong: Flags) -> float:
    """Area under the risk–coverage curve (Geifman and El-Yaniv, 2017), × 1,000."""
    return float(1000 * risks(score, wrong).mean())


def greatest_coverage(risk: Floats, target: float) -> float:
    """The greatest coverage at which the selective risk is at most the target."""
    safe = np.nonzero(risk <= target)[0]
    return float((safe[-1] + 1) / len(risk)) if len(safe) else 0.0


@dataclass(frozen=True, slots=True)
class Referenced:
    """A pool split into a reference (no labels) and the rest, with the rest's signals."""

    rest: list[Question]
    features: list[dict[str, float]]
    wrong: Flags


def referenced(
    pool: Sequence[Question], seed: int, also: Sequence[str] = (), *, support: bool = True
) -> Referenced:
    """As `surelocal calibrate` does it: 2,000 unlabelled records, at random, and support; with
    these further signals, if any."""
    order = np.random.default_rng(seed).permutation(len(pool))
    shuffled = [pool[i] for i in order]
    reference, rest = shuffled[:REFERENCE], shuffled[REFERENCE:]
    company = Support.of(
        [q.row["prompt"] for q in reference],
        [q.text for q in reference],
        [{"": q.answer} for q in reference],
    )
    features = []
    for q in rest:
        taken = {**q.signals, **q.features}
        given = {name: taken.get(name, 0.0) for name in ("probability", *also)}
        if support:
            given["support"] = company.of_answer(q.text, {"": q.answer}, "")[""]
        features.append(given)
    return Referenced(rest, features, wrong_of(rest))


def trained(split: Referenced, labels: Sequence[int]) -> tuple[Callable[[int], float], int]:
    """The calibrated score of each of the rest, from these labels; how many of them trained."""
    labelled = [Labelled(str(i), {"": split.features[i]}, bool(split.wrong[i])) for i in labels]
    made = calibrate(
        labelled, job="bench", identity=dict.fromkeys(IDENTITY, ""), source=PEOPLE, made=""
    )
    return lambda i: made.score({"": split.features[i]}), made.training
