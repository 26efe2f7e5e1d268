"""Certificates: exact where they claim to be, and never broken more often than delta."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from escalation.certify.finite_batch import Walk, plan
from escalation.certify.thresholds import (
    certify,
    certify_all,
    certify_strata,
    crossing_probability,
    fewest_labels,
    gate_boundary,
)
from runner.errors import UsageError

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


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("n", [200, 1000])
def test_certificates_are_broken_at_most_delta_of_the_time(name: str, n: int) -> None:
    target, delta = 0.05, 0.1
    random = np.random.default_rng(20)
    grid = (np.arange(60_000) + 0.5) / 60_000
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


# One finite batch: its scores, falling, and which answers are wrong; anything goes, errors at the
# top and none below included.
BATCHES: dict[str, Curve] = CURVES | {
    "unsafe, then safe, then unsafe": lambda u: np.select([u < 0.3, u < 0.6], [0.053, 0.045], 0.2),
    "wrong at the very top": lambda u: np.where(u < 0.05, 0.5, 0.04),
}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(("size", "n"), [(600, 300), (3000, 800)])
def test_the_share_of_wrong_answers_in_the_batch_is_broken_at_most_delta_of_the_time(
    name: str, size: int, n: int
) -> None:
    target, delta = 0.05, 0.1
    random = np.random.default_rng(21)
    scores = -np.arange(size, dtype=float)
    # Wrong answers at fixed places, as near to the rates as a batch can come.
    wrong = np.diff(np.floor(np.cumsum(BATCHES[name](np.arange(size) / size))), prepend=0) > 0
    broken = 0
    for _ in range(DRAWS):
        drawn = random.choice(size, n, replace=False)
        found = certify(scores[drawn], wrong[drawn], target_error=target, population=scores)
        if found.threshold is not None:
            broken += bool(wrong[scores >= found.threshold].mean() > target)
    assert broken / DRAWS <= delta + 3 * np.sqrt(delta * (1 - delta) / DRAWS)


@given(st.integers(2, 9), st.integers(0, 9), st.lists(st.integers(-1, 3), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_walk_of_a_batch_is_exact(size: int, n: int, steps: list[int]) -> None:
    n, steps = min(n, size), steps[: size - 1]
    boundary = np.array([-1, *steps])
    walk = Walk(size, n, len(steps), 1, 6)
    draws = [set(drawn) for drawn in itertools.combinations(range(size), n)]
    labelled = [[len(drawn & set(range(j))) for j in range(1, len(steps) + 1)] for drawn in draws]
    meets = [any(y <= b for y, b in zip(ys, steps, strict=True)) for ys in labelled]
    met = walk.forwards(boundary)[1]
    assert met == pytest.approx(np.mean(meets), abs=1e-12)
    assert walk.backwards(boundary)[0, 0] == pytest.approx(1 - met, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "n"), [(500, 200), (3000, 800), (60_000, 900)])
def test_no_single_chain_place_spends_more_than_delta(size: int, n: int) -> None:
    rules = plan(size, n, 0.05, 0.1)
    places = len(rules.gate) - 1
    walk = Walk(size, n, places, rules.stride, int(rules.chain.max()) + 3)
    spent = []
    for place in range(1, places + 1, max(1, places // 4)):
        raised = rules.gate.copy()
        raised[place] = rules.chain[place]
        spent.append(walk.forwards(raised)[1])
    assert 0.05 < max(spent) <= 0.1 + 1e-12
    assert bool(np.all(rules.chain >= rules.gate))


def test_a_batch_labelled_throughout_is_certified_to_the_last_safe_record() -> None:
    random = np.random.default_rng(8)
    scores, wrong = random.random(700), random.random(700) < 0.1
    found = certify(scores, wrong, target_error=0.05, population=scores)
    order = np.argsort(-scores)
    share = np.cumsum(wrong[order]) / np.arange(1, 701)
    assert found.accepted == found.population_accepted == np.flatnonzero(share <= 0.05)[-1] + 1
    assert (found.scope, found.population) == ("batch", 700)


def test_a_small_batch_keeps_more_than_the_traffic_would() -> None:
    random = np.random.default_rng(9)
    scores = np.arange(3000, 0, -1) / 3000
    batch, traffic = [], []
    for _ in range(60):
        wrong = random.random(3000) < np.where(scores > 0.5, 0.002, 0.3)
        drawn = random.choice(3000, 800, replace=False)
        of = (scores[drawn], wrong[drawn])
        batch.append(certify(*of, target_error=0.01, population=scores).coverage)
        traffic.append(certify(*of, target_error=0.01).coverage)
    assert np.mean(batch) > 1.15 * np.mean(traffic)


@pytest.mark.slow
def test_in_a_huge_batch_the_exact_test_is_close_to_the_binomial_one() -> None:
    random = np.random.default_rng(10)
    scores = np.arange(60_000, 0, -1) / 60_000
    wrong = random.random(60_000) < CURVES["sharp"](1 - scores)
    gaps = []
    for _ in range(15):
        drawn = random.choice(60_000, 1000, replace=False)
        of = (scores[drawn], wrong[drawn])
        batch = certify(*of, target_error=0.05, population=scores)
        gaps.append(batch.coverage - certify(*of, target_error=0.05).coverage)
    assert abs(np.mean(gaps)) < 0.02
    assert hypergeom.cdf(50, 60_000, 3_000, 1000) == pytest.approx(
        binom.cdf(50, 1000, 0.05), abs=5e-3
    )


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_holds_of_every_threshold(seed: int, of_a_batch: bool) -> None:
    random = np.random.default_rng(seed)
    batch = random.random(600)
    if of_a_batch:
        batch = np.round(batch, 2)
    drawn = random.permutation(600)[:300]
    scores, wrong = batch[drawn], random.random(300) < 0.3 * (1 - batch[drawn]) ** 2
    population = batch.tolist() if of_a_batch else None
    found = certify(scores, wrong, target_error=0.1, population=population)
    assert found.threshold is None or found.threshold in batch
    shuffle = random.permutation(300)
    assert found == certify(
        scores[shuffle], wrong[shuffle], target_error=0.1,
        population=None if population is None else population[::-1],
    )  # fmt: skip
    worse = certify(
        scores, wrong | (random.random(300) < 0.03), target_error=0.1, population=population
    )
    assert worse.accepted <= found.accepted


def test_labels_from_elsewhere_do_not_certify_a_batch() -> None:
    with pytest.raises(UsageError, match="sample of the batch"):
        certify([0.9, 0.8], [False, False], target_error=0.05, population=[0.9, 0.7, 0.6])
    with pytest.raises(UsageError, match="2 labelled records have the score"):
        certify([0.9, 0.9], [False, False], target_error=0.05, population=[0.9, 0.7])


def _fields(random: np.random.Generator, u: np.ndarray) -> dict[str, np.ndarray]:
    """Three errors, each at its target near the same rank: the hardest case for all together."""
    near = {"whole": (0.1, 0.5), "amount": (0.05, 0.49), "date": (0.05, 0.51)}
    return {k: random.random(len(u)) < np.where(u < q, a, 0.6) for k, (a, q) in near.items()}


@pytest.mark.slow
@pytest.mark.parametrize("of_a_batch", [False, True])
def test_one_threshold_keeps_every_target_at_once(of_a_batch: bool) -> None:
    targets = {"whole": 0.1, "amount": 0.05, "date": 0.05}
    random = np.random.default_rng(30)
    size, n, broken = 3000, 600, 0
    u = (np.arange(size) + 0.5) / size
    wrongs = _fields(random, u)
    for _ in range(DRAWS):
        if of_a_batch:
            drawn = random.choice(size, n, replace=False)
            at, seen = u[drawn], {name: wrong[drawn] for name, wrong in wrongs.items()}
        else:
            at = random.random(n)
            seen = _fields(random, at)
        found = certify_all(
            -at, seen, targets=targets, population=(-u).tolist() if of_a_batch else None
        )
        if found.threshold is not None and of_a_batch:
            broken += any(wrongs[k][-u >= found.threshold].mean() > a for k, a in targets.items())
        elif found.threshold is not None:
            broken += bool(-found.threshold > 0.49)
    assert broken / DRAWS <= 0.1 + 3 * np.sqrt(0.09 / DRAWS)


def test_all_targets_cost_no_more_than_the_hardest_alone() -> None:
    random = np.random.default_rng(31)
    u = random.random(1000)
    wrongs = {"whole": random.random(1000) < 0.1 * u, "amount": random.random(1000) < 0.05 * u**2}
    both = certify_all(-u, wrongs, targets={"whole": 0.04, "amount": 0.05})
    alone = certify(-u, wrongs["whole"], target_error=0.04)
    assert (both.threshold, both.errors) == (alone.threshold, alone.errors)
    assert both.bounds is not None
    accepted = -u >= both.threshold
    assert both.bounds["amount"].errors == int(wrongs["amount"][accepted].sum())
    strict = certify_all(-u, wrongs, targets={"whole": 0.04, "amount": 0.002})
    assert strict.threshold is None and strict.labels_needed is not None


@pytest.mark.slow
def test_the_strata_hold_together() -> None:
    random = np.random.default_rng(32)
    n, broken = 400, 0
    rates = {"easy": lambda u: 0.01 + 0 * u, "b": CURVES["a step"], "c": CURVES["a step"]}
    for _ in range(DRAWS):
        samples = {}
        for name, rate in rates.items():
            u = random.random(n)
            samples[name] = ((-u).tolist(), (random.random(n) < rate(u)).tolist())
        found = certify_strata(samples, targets=0.05)
        kept = {k: -one.threshold for k, one in found.items() if one.threshold is not None}
        # 4.9 % up to 0.3, then 6 %: 5 % on average at 0.33.
        broken += any(k != "easy" and kept[k] > 0.331 for k in kept)
    assert broken / DRAWS <= 0.1 + 3 * np.sqrt(0.09 / DRAWS)


def test_a_stratum_accepted_whole_hands_its_share_on() -> None:
    random = np.random.default_rng(33)
    u = random.random(500)
    hard = (-u, random.random(500) < 0.15 * u)
    clean = (-random.random(500), np.zeros(500, dtype=bool))
    together = certify_strata({"hard": hard, "clean": clean}, targets=0.05)
    assert together["clean"].coverage == 1
    assert together["hard"] == certify(*hard, target_error=0.05)
    twice = certify_strata({"hard": hard, "harder": hard}, targets={"hard": 0.05, "harder": 0.05})
    assert twice["hard"].accepted < together["hard"].accepted
