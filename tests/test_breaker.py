"""An overloaded provider is left alone, and local work does not wait for it."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.limits.breaker import AFTER, FIRST_S, JITTER, LONGEST_S, Breaker
from escalation.providers.protocol import Reply, overloaded
from runner.types import Completion, Prompt, Sampling, Usage
from tests.jobs import DEMO_MODEL, Ran, records, run, use_engine, write_job
from tests.scripted import Clock
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
BUSY, GOOD, LOST = Reply("retry", overloaded=True), Reply("ok"), Reply("unknown")
LATER = Reply("retry", retry_after_s=1.0)


def opened(clock: Clock, give_up_s: float = 300.0) -> Breaker:
    breaker = Breaker(give_up_s, clock, lambda: 0.0)
    for _ in range(AFTER):
        breaker.end(breaker.begin(), BUSY)
    assert breaker.open
    return breaker


def probe(breaker: Breaker, clock: Clock, reply: Reply | None) -> float:
    """Waits for the probe, which ends so; returns how long the wait was."""
    waited = breaker.pause()
    clock.now += waited
    assert breaker.pause() == 0 and breaker.begin()
    assert breaker.pause() > 0  # one alone
    breaker.end(True, reply)
    return waited


@pytest.mark.parametrize(
    ("status", "retry_after_s", "is_so"),
    [(529, None, True), (529, 3.0, True), (503, None, True), (429, None, True),
     (429, 3.0, False), (408, None, False)],
)  # fmt: skip
def test_what_counts_as_an_overload(status: int, retry_after_s: float | None, is_so: bool) -> None:
    assert overloaded(status, retry_after_s) == is_so


def test_only_overloads_in_a_row_open_it() -> None:
    breaker = Breaker(300.0, Clock())
    for reply in [*[BUSY] * (AFTER - 1), GOOD, *[BUSY] * (AFTER - 1), Reply("reject"), BUSY, LOST,
                  LATER]:  # fmt: skip
        assert breaker.pause() == 0
        breaker.end(breaker.begin(), reply)
    assert not breaker.open
    for _ in range(AFTER - 1):
        breaker.end(breaker.begin(), BUSY)
    assert breaker.open and breaker.pause() >= FIRST_S


def test_cool_downs_double_up_to_the_longest() -> None:
    clock = Clock()
    breaker = opened(clock, give_up_s=1e9)
    waits = [probe(breaker, clock, BUSY) for _ in range(9)]
    assert waits == pytest.approx([min(LONGEST_S, FIRST_S * 2**n) for n in range(9)])


def test_a_good_probe_closes_it_and_the_next_storm_begins_anew() -> None:
    clock = Clock()
    breaker = opened(clock)
    probe(breaker, clock, BUSY)
    probe(breaker, clock, GOOD)
    assert not breaker.open and breaker.pause() == 0 and not breaker.begin()
    for _ in range(AFTER):
        breaker.end(False, BUSY)
    assert breaker.pause() == pytest.approx(FIRST_S)


def test_replies_to_what_was_sent_before_it_opened_change_nothing() -> None:
    clock = Clock()
    breaker = opened(clock)
    before = breaker.pause()
    for reply in (BUSY, GOOD, LOST):
        breaker.end(False, reply)
    assert breaker.open and breaker.pause() == before


def test_a_probe_that_was_not_sent_leaves_its_place_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    probe(breaker, clock, None)
    assert breaker.pause() == 0 and breaker.begin()


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.floats(0.5, 900))
def test_it_is_given_up_in_time_after_few_probes(chance: random.Random, give_up_s: float) -> None:
    clock = Clock()
    breaker = Breaker(give_up_s, clock, chance.random)
    for _ in range(AFTER):
        breaker.end(False, BUSY)
    began, probes = clock.now, 0
    while not breaker.given_up:
        waited = breaker.pause()
        assert waited <= LONGEST_S * (1 + JITTER)
        probe(breaker, clock, chance.choice([BUSY, BUSY, LOST]))
        probes += 1
    assert clock.now - began == pytest.approx(give_up_s)
    assert probes <= 8 + give_up_s / LONGEST_S


# --- in a run -------------------------------------------------------------------------------------


class Steady:
    """A local model that takes its time, and notes when it was done."""

    window = 8

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended = 0.0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.began = self.began or time.monotonic()
        await asyncio.sleep(0.02)
        self.ended = time.monotonic()
        text = '{"intent": "lost_card"}'
        return Completion(text, "small", "stop", (text,), (-0.01,), Usage(9, 1))

    async def aclose(self) -> None:
        return None

    @property
    def took(self) -> float:
        assert self.began is not None
        return self.ended - self.began


def both_halves(folder: Path, api: StandIn, escalation: dict[str, Any]) -> Path:
    rows = [
        *records(f"C-{n}" for n in range(60)),
        *records((f"L-{n}" for n in range(300)), "local"),
    ]
    rows = [row for pair in zip(rows[:60], rows[60:120], strict=True) for row in pair] + rows[120:]
    local = {"model": str(DEMO_MODEL)}
    return write_job(folder, api.url, rows, {"concurrency": 16, **escalation}, local=local)


def test_local_work_never_waits_for_a_sick_api(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def took(folder: str, *overrides: str) -> tuple[float, Ran]:
        engine = Steady()
        use_engine(monkeypatch, engine)
        job = both_halves(tmp_path / folder, api, {"retry_for_s": 2.0, "max_attempts": 20})
        ran = run(job, *overrides)
        return engine.took, ran

    alone, ran = took("alone", "escalation.api_key_env=NOBODY_HAS_THIS_KEY")
    assert api.bill.requests(None) == [] and ran.summary.decided_by["local"] == 300
    api.faults.push("529", times=5000)
    for n in range(3):  # other work on the machine may slow one run, but hardly all of them
        before = len(api.bill.requests())
        stormy, ran = took(f"storm-{n}")
        sent = len(api.bill.requests()) - before
        if stormy < alone * 1.2 + 0.2:
            break
    assert ran.summary.decided_by == {"local": 300}
    assert set(ran.waits_for().values()) == {"provider_busy"}
    assert ran.summary.stopped is not None and "529" in ran.summary.stopped
    assert ran.spent == 0
    # A first wave, then probes: at 1 and 2 seconds or so.
    assert AFTER <= sent <= 16 + 4, sent
    assert stormy < alone * 1.2 + 0.2, (alone, stormy)


def test_a_storm_that_passes_is_sat_out(tmp_path: Path, api: StandIn) -> None:
    api.faults.push("529", times=7)
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(20)),
                    {"concurrency": 6, "max_attempts": 4, "retry_for_s": 60})  # fmt: skip
    ran = run(job)
    assert ran.summary.unfinished == 0 and api.bill.billed_twice() == {}
    assert len(api.bill.requests()) == 20 + 7
    assert ran.spent == api.bill.total_usd()


@pytest.mark.process
def test_nobody_there_is_an_overload_too(tmp_path: Path) -> None:
    with StandIn(tmp_path) as gone:
        url = gone.url
    job = write_job(tmp_path / "job", url, records(f"R-{n}" for n in range(40)),
                    {"concurrency": 8, "retry_for_s": 1.0, "max_attempts": 50})  # fmt: skip
    began = time.monotonic()
    ran = run(job)
    assert time.monotonic() - began < 30
    assert set(ran.waits_for().values()) == {"provider_unreachable"} and ran.spent == 0
