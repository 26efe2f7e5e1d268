"""The audit: a false alarm at most δ of the time however often one looks, and a quick right one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.certify.audit import TILTS, Audit, Wager, chosen, uniform

Verdicts = st.lists(st.booleans(), max_size=120)
Rates = st.floats(0.001, 0.9)
TARGET, DELTA = 0.05, 0.1


def checks(draw: random.Random, *parts: tuple[int, float]) -> list[bool]:
    """Verdicts: for each part, so many at such an error rate."""
    return [draw.random() < rate for count, rate in parts for _ in range(count)]


def after(target: float, delta: float, verdicts: Iterable[bool]) -> Audit:
    """The audit that has seen these verdicts."""
    audit = Audit(target, delta)
    for wrong in verdicts:
        audit.observe(wrong)
    return audit


def delays(runs: int, before: int, then: tuple[int, float]) -> list[float]:
    """Checks from the change to the alarm, of each run without an alarm before it."""
    draw = random.Random(7)
    audits = [after(TARGET, DELTA, checks(draw, (before, TARGET / 2), then)) for _ in range(runs)]
    times = [audit.alarm_at or float("inf") for audit in audits]
    return [time - before for time in times if time > before]


@settings(deadline=None)
@given(Verdicts, Rates, st.floats(0, 1))
def test_wealth_is_a_supermartingale_after_any_history(
    verdicts: list[bool], target: float, share: float
) -> None:
    audit = after(target, DELTA, verdicts)
    right, wrong = copy.deepcopy(audit), copy.deepcopy(audit)
    right.observe(False)
    wrong.observe(True)
    for rate in (target, share * target):
        expected = rate * wrong.wealth + (1 - rate) * right.wealth
        assert expected <= audit.wealth * (1 + 1e-12)


@settings(deadline=None)
@given(Verdicts, Rates)
def test_wealth_is_positive_and_the_alarm_sticks(verdicts: list[bool], target: float) -> None:
    audit, alarmed = Audit(target, DELTA), False
    for count, wrong in enumerate(verdicts, 1):
        audit.observe(wrong)
        assert audit.wealth > 0
        assert audit.alarm >= alarmed
        assert audit.alarm == (alarmed or audit.wealth >= 1 / DELTA)
        assert audit.alarm_at == (count if audit.alarm > alarmed else audit.alarm_at)
        alarmed = audit.alarm
    assert (audit.checked, audit.wrong) == (len(verdicts), sum(verdicts))


@settings(deadline=None)
@given(Verdicts, Rates)
def test_the_lower_bound_agrees_with_the_alarm_and_never_falls(
    verdicts: list[bool], target: float
) -> None:
    audit = after(target, DELTA, verdicts)
    bound = audit.lower_bound
    assert 0 <= bound < 1
    assert (bound >= target) == audit.alarm
    audit.observe(False)
    assert audit.lower_bound >= bound - 1e-5  # the bisection's resolution


@pytest.mark.slow
def test_false_alarms_at_exactly_the_target() -> None:
    # 2,000 runs of 2,000 checks gave 7.0 % for a δ of 10 %; fewer here, for the time it takes.
    draw, runs, alarms = random.Random(3), 800, 0
    for _ in range(runs):
        audit = Audit(TARGET, DELTA)
        for _ in range(2000):
            audit.observe(draw.random() < TARGET)
            if audit.alarm:
                alarms += 1
                break
    assert 0.02 < alarms / runs <= DELTA


@pytest.mark.slow
def test_the_lower_bound_is_too_high_at_most_delta_of_the_time() -> None:
    draw, runs = random.Random(4), 150
    high = [after(TARGET, DELTA, checks(draw, (200, 0.2))).lower_bound for _ in range(runs)]
    assert sum(bound > 0.2 for bound in high) / runs <= DELTA
    assert median(high) > TARGET


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "rate", "soon"),
    [
        # Medians measured, of 500 runs: 17, 25.5, 37, 158.5; from the start 16 and 127.
        (50, 0.3, 20),
        (300, 0.3, 29),
        (2000, 0.3, 42),
        (50, 0.1, 190),
        (0, 0.3, 19),
        (0, 0.1, 160),
    ],
)
def test_a_change_is_found_soon_whenever_it_comes(before: int, rate: float, soon: int) -> None:
    found = delays(100, before, (600, rate))
    assert len(found) >= 95
    assert median(found) <= soon


def test_a_run_that_keeps_its_promise_with_room_to_spare_is_left_alone() -> None:
    draw = random.Random(5)
    calm = [after(TARGET, DELTA, checks(draw, (1000, TARGET / 2))) for _ in range(100)]
    assert sum(audit.alarm for audit in calm) <= 2  # 0.5 % at 50 checks


def test_wealth_survives_a_run_where_all_is_wrong_or_all_is_right() -> None:
    wrong = after(0.01, DELTA, [True] * 3000)
    assert wrong.alarm_at == 4  # most of the wealth is kept back at first
    assert 1e100 < wrong.wealth < 1e103
    assert wrong.checked == wrong.wrong == 3000
    right = after(0.01, DELTA, [False] * 3000)
    assert 0 < right.wealth < 1
    assert right.lower_bound == 0


def test_a_wager_on_fair_even_money_keeps_its_wealth() -> None:
    wager = Wager(len(TILTS), 50)
    for _ in range(100):
        wager.round([1.0] * len(TILTS))
    assert wager.wealth == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="`target_error` must lie between 0 and 1"):
        Audit(share, DELTA)
    with pytest.raises(ValueError, match="`delta` must lie between 0 and 1"):
        Audit(TARGET, share)


@settings(deadline=None)
@given(st.text(), st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_greater_rate_chooses_the_same_records_and_more(
    name: str, seed: str, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert chosen(name, low, seed) <= chosen(name, high, seed)
    assert chosen(name, 1.0, seed)
    assert not chosen(name, 0.0, seed)
    assert uniform(name, seed) == uniform(name, seed)


def test_the_sample_has_the_rate_asked_for_and_another_seed_has_another_sample() -> None:
    names = [f"r{n}" for n in range(20_000)]
    one = {name for name in names if chosen(name, 0.05, "one")}
    two = {name for name in names if chosen(name, 0.05, "two")}
    assert 0.045 < len(one) / len(names) < 0.055
    assert 0.0015 < len(one & two) / len(names) < 0.0035  # 0.05² = 0.0025
    assert uniform("bc", "a") != uniform("c", "ab")
    assert 0 <= uniform("\ud800", "") < 1  # half of a pair, which JSON can hold
