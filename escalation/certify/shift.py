"""A sequential test that the records still resemble the certified sample; needs no labels.

H0: the scores of the certified sample and of the records, in the order observed, are exchangeable.
Each record's score is ranked among the sample's and *all earlier records'* scores, ties broken at
random. These conformal p-values are independent and uniform under H0 (Vovk, Gammerman and Shafer,
"Algorithmic Learning in a Random World", 2005, ch. 2 and 7). P-values against the sample alone are
not independent, since all of them share the sample's deviation: over many records, the test would
take that deviation for a shift. Bets that scores have become lower, or higher, make a test
martingale of the p-values; the probability that it ever reaches 1/δ is at most δ (Ville, 1939).

**What it does not detect.** It detects that the scores changed, not that the answers became worse;
the audit detects that, with labels. A sorted file (by date, customer, length) is not exchangeable,
so the alarm is then correct although the sample may represent the whole file.

**What it requires.** The sample and the records must be scored in the same way: scores are not
exchangeable if only some of them include all signals. No record of the sample may be observed
again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from escalation.certify.audit import Wager, require_share, uniform

PATIENCE = 200
"""Records after which half of the wealth is staked (see `escalation.certify.audit.Wager`)."""

TAILS = (0.1, 0.25)
"""The tails, as shares of the lowest or highest scores, that bets assume more frequent."""

GAINS = (0.15, 0.45)
"""The share of the remaining density moved to the tail: outside it, a density is 1 − gain."""

EDGES = (0.1, 0.25, 0.75, 0.9)
"""The p-values between which every bet's density is constant."""

_BINS = 1 << 12
_LOGIT_SPAN = 24.0
_SEED = "shift"


def _densities(p: float) -> list[float]:
    """Each bet's density at p, which integrates to 1 over (0, 1); shape (8,)."""
    return [
        1 + gain * (1 - tail) / tail if place < tail else 1 - gain
        for tail in TAILS
        for gain in GAINS
        for place in (p, 1 - p)
    ]


FACTORS = tuple(
    _densities((low + high) / 2) for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True)
)
"""`_densities` between the edges; shape (5, 8)."""


class ShiftTest:
    """The sequential test that scores are distributed as in the certified sample.

    The probability of a false alarm, ever, is at most ``delta``.

    Args:
        scores: the sample's, in [0, 1], or −1 where there was no valid answer; shape (n,).
        delta: δ in (0, 1).

    Raises:
        ValueError: delta is not in (0, 1), or a score is not a number.
    """

    def __init__(self, scores: Sequence[float], delta: float) -> None:
        require_share("delta", delta)
        self.delta = delta
        self.observed = 0
        self.alarm_at: int | None = None
        self._ranks = Ranks()
        for score in scores:
            self._ranks.add(score)
        self._wager = Wager(len(FACTORS[0]), PATIENCE)

    def observe(self, score: float, name: str) -> None:
        """Adds the next record's score, whether accepted or not; computed as in the sample.

        ``name`` is the record's id, and breaks ties: it must not depend on the score.

        Raises:
            ValueError: the score is not a number; the test is then unchanged.
        """
        p = self._ranks.p_value(score, uniform(name, _SEED))
        self.observed += 1
        self._wager.round(FACTORS[bisect_right(EDGES, p)])
        if self.alarm_at is None and self._wager.wealth >= 1 / self.delta:
            self.alarm_at = self.observed

    @property
    def wealth(self) -> float:
        """The current evidence of a shift, as a multiple of the starting wealth; above 0."""
        return self._wager.wealth

    @property
    def alarm(self) -> bool:
        """Whether the wealth has ever reached 1/δ; ``alarm_at`` is the number of records until
        then."""
        return self.alarm_at is not None


class Ranks:
    """Counts all scores so far in fixed bins with a Fenwick tree: a rank takes O(log bins).

    The bins are even on the logit scale. They reduce resolution (to 1 % of the odds) but not
    validity: the binned scores are as exchangeable as the scores, and ties are broken at random.
    """

    def __init__(self) -> None:
        self.size = 0
        self._tree = [0] * (_BINS + 1)
        self._counts = [0] * _BINS

    def add(self, score: float) -> None:
        """Raises ValueError if the score is not a number."""
        place = bin_of(score)
        self.size += 1
        self._counts[place] += 1
        node = place + 1
        while node <= _BINS:
            self._tree[node] += 1
            node += node & -node

    def p_value(self, score: float, tie: float) -> float:
        """Adds the score and returns its smoothed conformal p-value, in [0, 1]: (lower + tie ·
        equal)/all, where equal and all count the score itself (Vovk et al., 2005, eq. 2.20).

        Args:
            score: as in `bin_of`.
            tie: in [0, 1], uniform and independent of all scores.
        """
        self.add(score)
        place = bin_of(score)
        lower, node = 0, place
        while node:
            lower += self._tree[node]
            node &= node - 1
        return (lower + tie * self._counts[place]) / self.size


def bin_of(score: float) -> int:
    """The bin, 0 … 4095, of a score; it never decreases as the score increases.

    Bin 0 holds scores below 0 (no valid answer); scores within 4e-11 of 0 or of 1 share a bin.

    Raises:
        ValueError: the score is not a number.
    """
    if score < 0:
        return 0
    if score <= 0:
        return 1
    if score >= 1:
        return _BINS - 1
    if math.isnan(score):
        raise ValueError("a score is not a number")
    share = 0.5 + (math.log(score) - math.log1p(-score)) / (2 * _LOGIT_SPAN)
    return min(_BINS - 1, max(1, 1 + int(share * (_BINS - 1))))
