"""The loosest certified threshold for traffic, from n labelled records sampled at random from it.

*Selective risk* is the share of wrong answers among those accepted. `loosest_rank` finds the
loosest threshold t such that, with probability at least 1 − δ over the draw of the sample, the
selective risk at t is at most the target α.

**How.** Sort the sample by falling score; let W_k be the number of wrong answers among the first
k. A threshold at rank k is rejected as unsafe unless W_k ≤ b_k. Testing every rank at level δ and
taking the best would not control the error (multiple testing). Testing from the strictest rank
until the first failure (fixed-sequence testing: Angelopoulos et al., "Learn then Test", 2021) stops
too early, since the strictest ranks hold too few records to show anything. So the ranks are tested
in two blocks:

1. *Gate*, ranks z … m (z: the fewest records that can certify α; m: `GATE_SHARE` of n). The
   boundary b is chosen so that a walk of independent steps, each wrong with probability exactly α,
   meets W_k ≤ b_k anywhere in the block with probability at most δ. That probability is computed
   exactly, by dynamic programming, so testing every rank needs no union bound.
2. *Sequence*, ranks m + 1 … n, entered only if rank m itself passed: each at level δ by the exact
   binomial test, stopping at the first failure.

**Why it holds.** Let K be the number of sampled records above the loosest safe threshold. They are
wrong independently, with probability at most α on average, so W_K is at worst binomial(K, α); every
later record is wrong with probability at least α *provided that the error rate does not fall as
the score falls*. A certified threshold is unsafe only if the walk meets the boundary behind K. In
the gate, that has probability at most δ by construction; behind the gate, the first unsafe rank
must pass its own test at level δ. The proviso is the only assumption besides the random sample, and
the certificate states it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

GATE_SHARE = 0.4
_BISECTIONS = 30

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def fewest_labels(target_error: float, delta: float) -> int:
    """Labels needed to certify the target if none is wrong: ln δ / ln(1 − α), rounded up."""
    return math.ceil(math.log(delta) / math.log1p(-target_error))


def group_ends(score: Floats) -> Flags:
    """Whether rank k (index k − 1) ends a group of equal scores; ``score`` descending, shape
    (n,)."""
    return np.append(score[1:] != score[:-1], np.ones(min(1, len(score)), dtype=np.bool_))


def loosest_rank(score: Floats, errors: Ints, alpha: float, delta: float) -> int:
    """The greatest certified rank, or 0. Equal scores are accepted together or not at all."""
    n = len(score)
    first = fewest_labels(alpha, delta)
    if n < first:
        return 0
    ends = group_ends(score)
    gate = max(first, round(GATE_SHARE * n))
    boundary = gate_boundary(first, gate, alpha, delta)
    ranks = np.arange(first, gate + 1)
    passed = ranks[errors[first - 1 : gate] <= boundary[first : gate + 1]]
    whole = [int(rank) for rank in passed if ends[rank - 1]]
    best = whole[-1] if whole else 0
    if gate not in passed:
        return best
    after = np.arange(gate + 1, n + 1)
    fails = binom.cdf(errors[gate:], after, alpha) > delta
    reached = gate + (int(np.argmax(fails)) if fails.any() else len(after))
    whole = [rank for rank in range(gate, reached + 1) if ends[rank - 1]]
    return whole[-1] if whole else best


@lru_cache(maxsize=32)
def gate_boundary(first: int, last: int, alpha: float, delta: float) -> Ints:
    """The boundary b_0 … b_last (−1 where no W passes). A walk that errs with probability α at each
    step meets it anywhere in ranks first … last with probability at most δ.

    The nominal level of the binomial test at rank k is proportional to k, up to ½, since looser
    ranks accept more records.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        boundary = _boundary(first, last, alpha, middle)
        if crossing_probability(boundary, first, alpha) <= delta:
            low = middle
        else:
            high = middle
    return _boundary(first, last, alpha, low)


def _boundary(first: int, last: int, alpha: float, level: float) -> Ints:
    ranks = np.arange(last + 1)
    levels = np.minimum(0.5, level * ranks / last)
    with np.errstate(invalid="ignore"):
        wrong = np.nan_to_num(binom.ppf(levels, ranks, alpha), nan=-1.0).astype(np.int64)
    too_many = binom.cdf(wrong, ranks, alpha) > levels
    boundary = np.where(too_many, wrong - 1, wrong)
    boundary[:first] = -1
    return boundary


def crossing_probability(boundary: Ints, first: int, alpha: float) -> float:
    """P(W_k ≤ b_k for some k ≥ first), exactly, for independent steps of probability α."""
    width = int(boundary.max(initial=0)) + 2
    alive = np.zeros(width)  # P(W_k = w and not yet crossed); the last entry holds all larger w
    alive[0] = 1.0
    crossed = 0.0
    for k in range(1, len(boundary)):
        step = alive * (1 - alpha)
        step[1:] += alive[:-1] * alpha
        step[-1] += alive[-1] * alpha
        alive = step
        if k >= first and boundary[k] >= 0:
            crossed += float(alive[: boundary[k] + 1].sum())
            alive[: boundary[k] + 1] = 0.0
    return crossed


def labels_needed(errors: Ints, alpha: float, delta: float) -> int | None:
    """Estimates how many labels would certify a threshold, if further labels resembled these, which
    certify none."""
    enough = labels_enough(errors, alpha, delta)
    return None if enough is None else max(len(errors) + 1, enough)


def labels_enough(errors: Ints, alpha: float, delta: float) -> int | None:
    """Like `labels_needed`, if these may suffice; ``errors`` may also be expected counts."""
    n = len(errors)
    fewest = fewest_labels(alpha, delta)
    if n == 0:
        return fewest
    ranks = np.arange(1, n + 1)
    # Half an error is added: a few records without errors are weak evidence of a low rate.
    rates = (errors + 0.5) / ranks
    needed: float = math.inf
    for k in range(max(1, n // 20), n + 1, max(1, n // 40)):
        rate = float(rates[k - 1])
        if rate < alpha:
            # Normal approximation of the binomial test at rank k of a larger sample.
            z = 1.28155 if delta >= 0.1 else 2.0
            spread = z * (math.sqrt(alpha * (1 - alpha)) + math.sqrt(rate * (1 - rate)))
            accepted = max(fewest, (spread / (alpha - rate)) ** 2)
            needed = min(needed, accepted * n / k)
    return None if math.isinf(needed) else math.ceil(needed)
