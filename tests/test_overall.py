"""The error of everything delivered, whichever model answered, and the closed model's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from escalation.certify.overall import certify_overall

DRAWS = 400
SLACK = 3 * np.sqrt(0.09 / DRAWS)


def draw(random: np.random.Generator, u: np.ndarray, closed: float) -> tuple[np.ndarray, ...]:
    """Local errors rise along u from none to 40 %; the closed model's are the same everywhere."""
    return random.random(len(u)) < 0.4 * u**2, random.random(len(u)) < closed


def risk(t: float, closed: float) -> float:
    """The error of all delivered when u ≤ t is answered locally."""
    return 0.4 * t**3 / 3 + closed * (1 - t)


@pytest.mark.parametrize("closed", [0.02, 0.0501, 0.055])
def test_the_error_of_all_delivered_is_broken_at_most_delta_of_the_time(closed: float) -> None:
    random = np.random.default_rng(40)
    broken = 0
    for _ in range(DRAWS):
        u = random.random(500)
        found = certify_overall(-u, *draw(random, u, closed), target_error=0.05)
        if found.threshold is not None:
            broken += risk(max(0.0, -found.threshold), closed) > 0.05
    assert broken / DRAWS <= 0.1 + SLACK


@pytest.mark.slow
def test_the_error_in_one_batch_is_broken_at_most_delta_of_the_time() -> None:
    random = np.random.default_rng(41)
    u = (np.arange(2000) + 0.5) / 2000
    local, closed = draw(random, u, 0.02)
    broken, kept, plain = 0, 0, 0
    for _ in range(DRAWS):
        rows = random.choice(2000, 700, replace=False)
        of = (-u[rows], local[rows], closed[rows])
        found = certify_overall(*of, target_error=0.05, population=-u)
        kept += found.accepted
        plain += certify_overall(*of, target_error=0.05).accepted
        assert found.threshold is not None and found.population == 2000
        accepted = -u >= found.threshold
        assert found.population_accepted == accepted.sum()
        broken += np.where(accepted, local, closed).mean() > 0.05
    assert broken / DRAWS <= 0.1 + SLACK
    assert kept > plain


def test_a_closed_model_over_the_target_certifies_no_mixture_however_good() -> None:
    random = np.random.default_rng(42)
    u = random.random(2000)
    local, closed = draw(random, u, 0.08)
    mixed = np.where(u <= 0.5, local, closed).sum()
    assert binom.cdf(mixed, 2000, 0.07) <= 0.05 < binom.cdf(closed.sum(), 2000, 0.07)
    assert certify_overall(-u, local, closed, target_error=0.07).threshold is None


def test_nothing_looser_than_the_first_failure_counts() -> None:
    # Of 1,000 at 5 %, at most 40 wrong pass at the whole δ of 0.1.
    ranks = np.arange(1000)
    scores, closed = 1 - ranks / 1000, ranks >= 964
    for wrong, accepted in [([300, 320, 340, 360], 1000), ([300, 320, 340, 360, 380], 380)]:
        # Where the closed model errs the local one is right: at the end the sum passes again.
        local = np.isin(ranks, wrong)
        found = certify_overall(scores, local, closed, target_error=0.05)
        assert (found.accepted, found.population) == (accepted, None)


def test_sending_everything_may_be_all_that_is_certified() -> None:
    found = certify_overall([0.9] * 200, [True] * 200, [False] * 200, target_error=0.05)
    assert (found.threshold, found.accepted, found.errors) == (math.inf, 0, 0)


def test_an_unknown_answer_of_the_closed_model_counts_as_wrong() -> None:
    known: list[bool | None] = [False] * 400
    some: list[bool | None] = [None] * 60 + [False] * 340
    scores, local = [n / 400 for n in range(400)], [True] * 400
    assert certify_overall(scores, local, known, target_error=0.05).accepted == 14
    found = certify_overall(scores, local, some, target_error=0.05)
    assert (found.threshold, found.labels_needed) == (None, None)
    assert (found.closed_errors, found.closed_unknown) == (60, 60)


def test_the_bound_on_the_closed_model_is_exact() -> None:
    closed = [n < 7 for n in range(300)]
    scores = [float(n) for n in range(300)]
    found = certify_overall(scores, closed, closed, target_error=0.05)
    assert binom.cdf(7, 300, found.closed_upper) == pytest.approx(0.1)
    batch = certify_overall(
        scores, closed, closed, target_error=0.05, population=[float(n) for n in range(900)]
    )
    most = round(batch.closed_upper * 900)
    assert hypergeom.cdf(7, 900, most, 300) > 0.1 >= hypergeom.cdf(7, 900, most + 1, 300)


def test_too_few_labels_certify_nothing_and_say_how_many_would() -> None:
    found = certify_overall([0.5] * 30, [False] * 30, [False] * 30, target_error=0.05)
    assert found.threshold is None
    assert found.labels_needed is not None and found.labels_needed >= 45
    assert certify_overall([], [], [], target_error=0.05).labels_needed == 45


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_holds_of_every_threshold(seed: int, of_a_batch: bool) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.random(250), 2)
    local, closed = random.random(250) < 0.3 * (1 - scores), random.random(250) < 0.05
    batch = [*scores.tolist(), *np.round(random.random(250), 2).tolist()] if of_a_batch else None
    found = certify_overall(scores, local, closed, target_error=0.1, population=batch)
    assert found.threshold is None or found.threshold in [*scores, math.inf]
    if found.threshold is not None:
        delivered = np.where(scores >= found.threshold, local, closed)
        assert found.errors == delivered.sum()
        assert found.accepted == np.sum(scores >= found.threshold)
    shuffle = random.permutation(250)
    again = certify_overall(
        scores[shuffle], local[shuffle], closed[shuffle], target_error=0.1, population=batch
    )
    assert found == again
    more = random.random(250) < 0.02
    worse = certify_overall(scores, local | more, closed | more, target_error=0.1, population=batch)
    assert worse.accepted <= found.accepted
