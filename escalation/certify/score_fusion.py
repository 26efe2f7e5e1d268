"""Combines an answer's signals into a score, and calibrates the score to P(correct).

Both models are small, so that a few hundred labels suffice. The *combiner* is a logistic regression
on an answer's signals, trained on labels that are not used to certify. *Platt scaling* keeps the
order, so it may be fitted on the certifying labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROBABILITY = "probability"
SUPPORT = "support"
_EPSILON = 1e-6

Features = Mapping[str, float]
"""Signal name → value in [0, 1]; ``probability`` is always among them."""


@dataclass(frozen=True, slots=True)
class ScoreFusion:
    """σ(intercept + Σ weight × signal), with ``probability`` on its logit scale.

    ``means`` stand in for signals that were not taken.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    means: tuple[float, ...]
    intercept: float

    def __call__(self, features: Features) -> float:
        """The score in (0, 1)."""
        return sigmoid(self._sum(features, self.means))

    def bounds(self, features: Features) -> tuple[float, float]:
        """The least and greatest score that the signals not yet taken can lead to."""
        low = [0.0 if weight > 0 else 1.0 for weight in self.weights]
        high = [1.0 - end for end in low]
        return sigmoid(self._sum(features, low)), sigmoid(self._sum(features, high))

    def _sum(self, features: Features, otherwise: Sequence[float]) -> float:
        terms = zip(self.names, self.weights, otherwise, strict=True)
        given = (
            weight * (_scaled(name, features[name]) if name in features else absent)
            for name, weight, absent in terms
        )
        return self.intercept + math.fsum(given)


ALONE = ScoreFusion((PROBABILITY,), (1.0,), (0.0,), 0.0)
"""The unchanged probability: ranks answers without other signals, and needs no labels."""


@dataclass(frozen=True, slots=True)
class Platt:
    """P(correct) = σ(slope · logit(score) + intercept) (Platt, 1999)."""

    slope: float
    intercept: float

    def __call__(self, score: float) -> float:
        """Score in [0, 1] → probability in (0, 1)."""
        return sigmoid(self.slope * logit(score) + self.intercept)


def fit_combiner(rows: Sequence[Features], wrong: Sequence[bool]) -> ScoreFusion:
    """Fits a logistic regression on standardised signals. Returns `ALONE` if all labels are of one
    class or the fitted weight of the probability is not positive."""
    from sklearn.linear_model import LogisticRegression

    names = sorted({name for row in rows for name in row})
    if names == [PROBABILITY] or len(set(wrong)) < 2:
        return ALONE
    columns = [[_scaled(n, row[n]) for row in rows if n in row] for n in names]
    means = [math.fsum(column) / len(column) for column in columns]
    spreads = [_spread(column, mean) for column, mean in zip(columns, means, strict=True)]
    inputs = [
        [
            (_scaled(n, row[n]) - mean) / spread if n in row else 0.0
            for n, mean, spread in zip(names, means, spreads, strict=True)
        ]
        for row in rows
    ]
    model = LogisticRegression(C=1.0).fit(inputs, [not w for w in wrong])
    weights = [float(w) / spread for w, spread in zip(model.coef_[0], spreads, strict=True)]
    if weights[names.index(PROBABILITY)] <= 0:
        return ALONE
    shift = math.fsum(w * mean for w, mean in zip(weights, means, strict=True))
    return ScoreFusion(
        tuple(names), tuple(weights), tuple(means), float(model.intercept_[0]) - shift
    )


def fit_platt(pairs: Sequence[tuple[float, bool]]) -> Platt:
    """Platt scaling of (score, wrong) pairs, with his smoothed targets."""
    from sklearn.linear_model import LogisticRegression

    right = sum(not wrong for _, wrong in pairs)
    sure = (right + 1) / (right + 2)
    unsure = 1 / (len(pairs) - right + 2)
    inputs, outputs, weights = [], [], []
    for score, wrong in pairs:
        probability = unsure if wrong else sure
        inputs += [[logit(score)], [logit(score)]]
        outputs += [1, 0]
        weights += [probability, 1 - probability]
    model = LogisticRegression(C=100.0).fit(inputs, outputs, sample_weight=weights)
    slope = float(model.coef_[0][0])
    if slope > 0:
        return Platt(slope, float(model.intercept_[0]))
    # A negative slope would reverse the order: give every answer the same confidence instead.
    return Platt(0.0, logit((right + 1) / (len(pairs) + 2)))


def logit(probability: float) -> float:
    """log(p / (1 − p)), with p clipped to [1e-6, 1 − 1e-6]."""
    p = min(1 - _EPSILON, max(_EPSILON, probability))
    return math.log(p / (1 - p))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def _scaled(name: str, value: float) -> float:
    return logit(value) if name == PROBABILITY else value


def _spread(column: Sequence[float], mean: float) -> float:
    variance = math.fsum((x - mean) ** 2 for x in column) / len(column)
    return math.sqrt(variance) or 1.0
