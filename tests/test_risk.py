"""Certificates: exact where they claim to be, and never broken more often than delta."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from escalation.risk import certify, crossing_probability, fewest_labels, gate_boundary

Curve = Callable[[np.ndarray], np.ndarray]

# Error rate by rank (0 = most confident, 1 = least), none falling: sharp, gentle, flat at the
# target, a step just behind it, and hopeless.
CURVES: dict[str, Curve] = {
    "sharp": lambda u: np.clip(0.6 * (u - 0.6), 0.002, 1.0),
    "gentle": lambda u: 0.1 * u,
    "flat at the target": lambda u: np.full_like(u, 0.05),
    "just above it": lambda u: np.full_like(u, 0.051),
    "a step": lambda u: np.where(u < 0.3, 0.049, 0.06),
    "hopeless": lambda u: np.full_like(u, 0.4),
}
DRAWS = 400


def brute_force(boundary: list[int], first: int, alpha: float) -> float:
    """The crossing probability by looking at every path."""
    total = 0.0
    for path in itertools.product((0, 1), repeat=len(boundary) - 1):
        wrong = np.cumsum(path)
        if any(wrong[k - 1] <= boundary[k] for k in range(first, len(boundary))):
            total += alpha ** sum(path) * (1 - alpha) ** (len(path) - sum(path))
    return total


@given(
    st.lists(st.integers(-1, 4), min_size=2, max_size=11),
    st.integers(1, 5),
    st.floats(0.01, 0.9),
)
@settings(max_examples=60, deadline=None)
def test_crossing_probability_is_exact(steps: list[int], first: int, alpha: float) -> None:
    boundary = np.array([-1, *steps], dtype=np.int64)
    boundary[:first] = -1
    assert crossing_probability(boundary, first, alpha) == pytest.approx(
        brute_force(boundary.tolist(), first, alpha), abs=1e-12
    )


@pytest.mark.parametrize(("alpha", "delta"), [(0.05, 0.1), (0.02, 0.1), (0.01, 0.05), (0.2, 0.3)])
def test_the_gate_spends_delta_and_no_more(alpha: float, delta: float) -> None:
    first = fewest_labels(alpha, delta)
    boundary = gate_boundary(first, 3 * first, alpha, delta)
    assert 0.5 * delta < crossing_probability(boundary, first, alpha) <= delta


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("n", [200, 1000])
def test_certificates_are_broken_at_most_delta_of_the_time(name: str, n: int) -> None:
    target, delta = 0.05, 0.1
    random = np.random.default_rng(20)
    grid = (np.arange(200_000) + 0.5) / 200_000
    risk_at = np.cumsum(CURVES[name](grid)) / np.arange(1, len(grid) + 1)
    broken = 0
    for _ in range(DRAWS):
        rank = random.random(n)
        wrong = random.random(n) < CURVES[name](rank)
        found = certify((1 - rank).tolist(), wrong.tolist(), target_error=target, delta=delta)
        if found.threshold is not None:
            accepted = max(1, round((1 - found.threshold) * len(grid)))
            broken += bool(risk_at[accepted - 1] > target)
    # Three standard errors of a share of DRAWS draws on top of delta.
    assert broken / DRAWS <= delta + 3 * np.sqrt(delta * (1 - delta) / DRAWS)


def test_a_good_score_keeps_most_of_what_could_be_kept() -> None:
    random = np.random.default_rng(1)
    coverage = []
    for _ in range(50):
        rank = random.random(1000)
        wrong = random.random(1000) < CURVES["sharp"](rank)
        coverage.append(certify(1 - rank, wrong, target_error=0.05).coverage)
    assert np.mean(coverage) > 0.9  # the error passes 5 % where all is accepted: at 0.98


def test_the_accepted_error_is_itself_significantly_low() -> None:
    random = np.random.default_rng(3)
    rank = random.random(500)
    wrong = random.random(500) < 0.1 * rank
    found = certify(1 - rank, wrong, target_error=0.05)
    assert found.threshold is not None
    assert found.accepted == int(np.sum(1 - rank >= found.threshold))
    assert binom.cdf(found.errors, found.accepted, 0.05) <= 0.1 + 1e-12


def test_equal_scores_stand_and_fall_together() -> None:
    scores = [0.9] * 300 + [0.5] * 700
    wrong = [False] * 300 + [n % 5 == 0 for n in range(700)]
    found = certify(scores, wrong, target_error=0.05)
    assert (found.threshold, found.accepted, found.errors) == (0.9, 300, 0)
    assert certify([0.9] * 1000, wrong, target_error=0.05).threshold is None


def test_the_order_of_the_labels_does_not_matter() -> None:
    random = np.random.default_rng(4)
    scores, wrong = random.random(600), random.random(600) < 0.02
    shuffle = random.permutation(600)
    assert certify(scores, wrong, target_error=0.05) == certify(
        scores[shuffle], wrong[shuffle], target_error=0.05
    )


def test_too_few_labels_certify_nothing_and_say_how_many_would() -> None:
    assert fewest_labels(0.05, 0.1) == 45
    assert fewest_labels(0.02, 0.05) == 149
    assert certify([0.9] * 44, [False] * 44, target_error=0.05).threshold is None
    assert certify([0.9] * 45, [False] * 45, target_error=0.05).threshold == 0.9
    few = certify([1 - n / 100 for n in range(100)], [n % 33 == 0 for n in range(100)],
                  target_error=0.05)  # fmt: skip
    assert few.threshold is None
    assert few.labels_needed is not None and few.labels_needed > 100


def test_no_number_of_labels_helps_where_even_the_surest_answers_err() -> None:
    random = np.random.default_rng(6)
    found = certify(random.random(2000), random.random(2000) < 0.4, target_error=0.02)
    assert (found.threshold, found.labels_needed) == (None, None)
