"""A quote's intervals hold the truth about as often as they say, on batches of every kind."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from scipy.stats import hypergeom

from runner.quote.intervals import Range, count_in, sum_over
from runner.quote.money import Caching, way

SIZE, PILOT, DRAWS = 3000, 200, 100
Costs = Callable[[np.random.Generator, int], np.ndarray]
LIKE: dict[str, Costs] = {
    "alike": lambda random, n: random.normal(0.0016, 0.00005, n),
    "skewed": lambda random, n: random.lognormal(-6, 1.0, n),
    "two sizes": lambda random, n: np.where(random.random(n) < 0.1, 0.01, 0.001),
}


@pytest.mark.parametrize(("size", "drawn"), [(30, 12), (40, 1), (25, 25), (60, 59)])
def test_a_counts_interval_holds_at_every_truth(size: int, drawn: int) -> None:
    stated = [count_in(size, drawn, found) for found in range(drawn + 1)]
    for truth in range(size + 1):
        chances = hypergeom.pmf(range(drawn + 1), size, truth, drawn)
        held = sum(p for p, found in zip(chances, stated, strict=True) if found.holds(truth))
        assert held >= 0.95, truth


def test_a_count_is_no_less_than_seen_and_known_where_all_was() -> None:
    assert count_in(1000, 200, 0).low == 0 < count_in(1000, 200, 0).high < 20
    assert 980 < count_in(1000, 200, 200).low < count_in(1000, 200, 200).high == 1000
    assert count_in(50, 50, 7) == Range(7, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.2, 0.95])
@pytest.mark.parametrize("like", LIKE)
def test_a_sums_interval_holds_in_over_90_of_100_draws(like: str, share: float) -> None:
    random = np.random.default_rng(5)
    costs = LIKE[like](random, SIZE)
    spent = np.where(random.random(SIZE) < share, costs, 0.0)
    held = 0
    for _ in range(DRAWS):
        drawn = random.choice(SIZE, PILOT, replace=False)
        some = spent[drawn][spent[drawn] > 0].tolist()
        held += sum_over(SIZE, PILOT, some, costs[drawn].tolist()).holds(spent.sum())
    assert held >= 90


def test_a_sum_says_something_where_the_pilot_has_none_or_all() -> None:
    none = sum_over(1000, 100, [], [0.5, 1.5] * 50)
    assert (none.value, none.low) == (0.0, 0.0)
    assert 20 < none.high < 50  # at most some 35 records, of a dollar or so
    amounts = [1.0, 2.0, 4.0]
    assert sum_over(3, 3, amounts, amounts) == Range(7.0, 7.0, 7.0)
    assert sum_over(5, 5, [], []) == Range(0.0, 0.0, 0.0)


def test_the_cache_saves_the_shared_part_of_all_but_those_that_write_it() -> None:
    cache = Caching(600, Decimal("0.0010"), Decimal("0.0003"), at_once=4)
    every = [Decimal("0.0015")] * 10
    found = way("all", every, every, 10, cache).cached
    assert found is not None
    reading, writing = 0.0005, 0.0015 + 0.0003
    assert found.low == pytest.approx(9 * reading + writing)
    assert found.high == pytest.approx(6 * reading + 4 * writing)
    batch = way("all", every, every, 10, cache, batched=True).cached
    assert batch is not None
    assert batch.high == pytest.approx(3 * reading + 7 * writing)  # three of ten find it
