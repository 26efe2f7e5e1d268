"""Certifies a threshold for the error rate of *all* delivered records.

If local answers with score ≥ t are accepted and the rest are sent to the closed model, record i is
delivered wrong if L_i(t) = local_wrong_i (score_i ≥ t) or closed_wrong_i (score_i < t). Every
labelled record gives L_i at every t, so R(t) = E L_i(t) is tested with all n labels at any t: S(t)
= Σ L_i(t) is binomial(n, R(t)), or exactly hypergeometric for labels drawn from one batch of N
records.

R need not rise as t falls: if the local model is right more often than the closed one on its most
confident answers, R falls first. So no order of errors is assumed. Thresholds are tested in falling
order, starting at ∞ (which accepts nothing), each at the full δ, until the first failure
(fixed-sequence testing). A false certificate means that the first unsafe threshold passed its own
test. That threshold is fixed by the traffic, not by the labels, so the probability is at most δ.

∞ passes only if the closed model alone meets the target. So a mixture that meets the target where
the closed model alone does not is never certified. That is the cost of a starting point that does
not depend on the labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import beta, binom, hypergeom

from escalation.certify.binomial import Floats, Ints, fewest_labels
from escalation.certify.thresholds import Certified, within


@dataclass(frozen=True, slots=True)
class Overall(Certified):
    """A certificate for all delivered records. ``threshold`` is ∞ if only sending every record is
    certified. ``accepted`` counts labelled records at or above it; ``errors`` counts all labelled
    records delivered wrong, by either model.

    For the closed model alone: ``closed_errors`` of ``labels`` are wrong, including
    ``closed_unknown`` without its answer, which count as wrong. Its error rate (in the batch, if
    that is the scope) is at most ``closed_upper`` with probability 1 − ``delta`` (Clopper and
    Pearson, 1934).
    """

    closed_errors: int = 0
    closed_unknown: int = 0
    closed_upper: float = 1.0


@dataclass(frozen=True, slots=True)
class _Steps:
    """The sample's distinct scores, descending; ``accepted`` labelled records at or above each; and
    ``wrong``, S(t). Each begins with t = ∞; shape (distinct + 1,)."""

    thresholds: Floats
    accepted: Ints
    wrong: Ints

    def at(self, step: int | None) -> tuple[int, int, float | None]:
        """Accepted, wrong and the threshold at a step; for None, nothing is accepted."""
        if step is None:
            return 0, 0, None
        return int(self.accepted[step]), int(self.wrong[step]), float(self.thresholds[step])


def certify_overall(
    scores: Sequence[float],
    local_wrong: Sequence[bool],
    closed_wrong: Sequence[bool | None],
    *,
    target_error: float,
    delta: float = 0.1,
    population: Sequence[float] | None = None,
) -> Overall:
    """The loosest threshold at which at most ``target_error`` of all delivered records are wrong.

    Args:
        scores: one per labelled record, higher = more confident; shape (n,).
        local_wrong: whether the local answer is wrong; shape (n,).
        closed_wrong: whether the closed model's answer is wrong; None (unknown) counts as wrong;
            shape (n,).
        target_error: α in (0, 1).
        delta: the probability that the certificate is false.
        population: the scores of the whole batch that the labels are drawn from; None: the claim
            is about the traffic.

    Raises:
        UsageError: a labelled record's score is not among the batch's.
    """
    score = np.asarray(scores, dtype=np.float64)
    batch = None if population is None else within(score, population)
    size = None if batch is None else len(batch)
    closed = np.array([one is None or bool(one) for one in closed_wrong], dtype=np.int64)
    steps = _steps(score, np.asarray(local_wrong, dtype=np.int64), closed)
    n, sent = len(score), int(closed.sum())
    at = _loosest(steps, _most_wrong(n, size, target_error, delta))
    accepted, wrong, threshold = steps.at(at)
    return Overall(
        target_error, delta, n, threshold, accepted, wrong,
        _needed(int(steps.wrong.min()), n, target_error, delta) if at is None else None,
        "traffic" if batch is None else "batch", size,
        None if batch is None else 0 if threshold is None else int(np.sum(batch >= threshold)),
        closed_errors=sent, closed_upper=_upper(sent, n, size, delta),
        closed_unknown=sum(one is None for one in closed_wrong),
    )  # fmt: skip


def _steps(score: Floats, local: Ints, closed: Ints) -> _Steps:
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.append(falling[1:] != falling[:-1], np.ones(min(1, len(falling)), dtype=np.bool_))
    change = np.cumsum((local - closed)[order])[last]
    wrong = closed.sum() + np.append(0, change)
    accepted = np.append(0, np.flatnonzero(last) + 1)
    return _Steps(np.append(math.inf, falling[last]), accepted, wrong)


def _loosest(steps: _Steps, most: int) -> int | None:
    """The index of the last threshold before the first with more than ``most`` wrong; None if that
    is the first threshold. S does not change between two sample scores, so testing at those is
    enough."""
    failed = np.flatnonzero(steps.wrong > most)
    passed = int(failed[0]) if len(failed) else len(steps.wrong)
    return passed - 1 if passed else None


@lru_cache(maxsize=256)
def _most_wrong(n: int, size: int | None, alpha: float, level: float) -> int:
    """The greatest S that rejects R > α at ``level``; −1 if none does."""
    counts = np.arange(n + 1)
    if size is None:
        below = binom.cdf(counts, n, alpha)
    else:
        unsafe = math.floor(alpha * size + 1e-9) + 1
        below = hypergeom.cdf(counts, size, min(unsafe, size), n)
    return int(np.sum(below <= level)) - 1


def _upper(errors: int, n: int, size: int | None, delta: float) -> float:
    """The exact one-sided upper confidence bound of an error rate, in (0, 1]."""
    if errors == n:
        return 1.0
    if size is None:
        return float(beta.ppf(1 - delta, errors + 1, n - errors))
    # The greatest number of errors in the batch that shows at most ``errors`` with probability > δ.
    low, high = errors, size - n + errors
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(errors, size, middle, n) > delta:
            low = middle
        else:
            high = middle - 1
    return low / size


def _needed(fewest_wrong: int, n: int, alpha: float, delta: float) -> int | None:
    """Estimates how many labels would certify a threshold, if further labels resembled these."""
    if n == 0:
        return fewest_labels(alpha, delta)
    # Half an error is added: a few records without errors are weak evidence of a low rate.
    rate = (fewest_wrong + 0.5) / n
    if rate >= alpha:
        return None
    quantile = 1.28155 if delta >= 0.1 else 2.0
    spread = quantile * (math.sqrt(alpha * (1 - alpha)) + math.sqrt(rate * (1 - rate)))
    return max(n + 1, fewest_labels(alpha, delta), math.ceil((spread / (alpha - rate)) ** 2))
