"""The provider's rate limits: read, kept to, and no reason to send what would be refused."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from escalation.limits.rate import FIRST_AT_ONCE, POLL_S, Flight, Pace
from escalation.providers.anthropic import Anthropic, AnthropicWire
from escalation.providers.openai import OpenAI, OpenAIWire
from escalation.providers.protocol import Reply
from escalation.providers.rate_headers import anthropic_limits, openai_limits
from runner.job import Escalation
from runner.types import Message, Prompt, Usage
from tests.jobs import Ran, records, run, start, wait_until, write_job
from tests.scripted import Clock
from tests.stand_in import Limits, StandIn

pytestmark = pytest.mark.usefixtures("key")
PROMPT = Prompt((Message("user", "where is my card"),))


def told(limit: float, remaining: float, reset_s: float, name: str = "requests") -> Reply:
    return Reply("ok", limits={name: (limit, remaining, reset_s)})


def heard(pace: Pace, reply: Reply, usage: Usage | None = None) -> Pace:
    pace.end(pace.begin(400), reply, usage)
    return pace


# --- the headers ----------------------------------------------------------------------------------


def test_both_apis_headers_come_with_every_reply(api: StandIn) -> None:
    api.limits = Limits({"requests": 2, "input-tokens": 9000, "output-tokens": 700}, window_s=30)

    async def main() -> tuple[list[Reply], list[Reply]]:
        claude = Escalation.model_validate({"base_url": api.url})
        gpt = Escalation.model_validate({"provider": "openai", "api_key_env": "OPENAI_API_KEY"})
        ours = AnthropicWire(api.url, "ANTHROPIC_API_KEY", 5.0, 2)
        theirs = OpenAIWire(f"{api.url}/v1", "OPENAI_API_KEY", 5.0, 2)
        first = [await ours.send(Anthropic(claude).request(PROMPT)) for _ in range(3)]
        second = [await theirs.send(OpenAI(gpt).request(PROMPT)) for _ in range(1)]
        await ours.aclose()
        await theirs.aclose()
        return first, second

    (one, two, refused), (other,) = asyncio.run(main())
    assert [one.verdict, two.verdict, refused.verdict, other.verdict] == ["ok", "ok"] + [
        "retry"
    ] * 2
    for reply, left in ((one, 1), (two, 0), (refused, 0)):
        assert reply.limits is not None and set(reply.limits) == {"requests", "input", "output"}
        limit, remaining, reset_s = reply.limits["requests"]
        assert (limit, remaining) == (2, left) and 0 < reset_s <= 30
    assert refused.retry_after_s is not None and 0 < refused.retry_after_s <= 30
    assert not refused.overloaded  # it is well, and says when
    assert other.limits is not None and set(other.limits) == {"requests", "tokens"}
    assert other.limits["requests"][:2] == (2, 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("120ms", 0.12), ("1.5s", 1.5), ("1h2m3s", 3723), ("2d", 172800), ("7", 7)],
)
def test_openais_durations(text: str, seconds: float) -> None:
    headers = {f"x-ratelimit-{part}-requests": "9" for part in ("limit", "remaining")}
    found = openai_limits(headers | {"x-ratelimit-reset-requests": text})
    assert found == {"requests": (9, 9, pytest.approx(seconds))}


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_what_cannot_be_read_counts_as_nothing_said(a: str, b: str, c: str) -> None:
    parts = {"limit": f"{a}x", "remaining": b, "reset": c}
    assert anthropic_limits({f"anthropic-ratelimit-requests-{k}": parts[k] for k in parts}) == {}
    assert openai_limits({f"x-ratelimit-{k}-tokens": parts[k] for k in parts}) == {}


def test_resets_are_by_the_servers_clock() -> None:
    hour_ahead = time.time() + 3600
    headers = {
        "date": formatdate(hour_ahead, usegmt=True),
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": time.strftime(
            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour_ahead + 20)
        ),
    }
    assert anthropic_limits(headers)["requests"][2] == pytest.approx(20, abs=1.1)


# --- the pace, by a clock of the test's own -------------------------------------------------------


def test_nothing_begins_beyond_what_remains_until_its_reset() -> None:
    clock = Clock()
    pace = heard(Pace(64, clock=clock), told(50, 3, 20.0))
    for _ in range(3):
        assert pace.pause(400) == 0
        pace.begin(400)
    assert pace.pause(400) == pytest.approx(20.0)
    clock.now += 19.5
    assert pace.pause(400) == pytest.approx(0.5)
    clock.now += 0.5
    # The three still under way may count anew.
    passed = 0
    while pace.pause(400) == 0:
        pace.begin(400)
        passed += 1
    assert passed == 47


def test_replies_out_of_order_promise_nothing() -> None:
    clock = Clock()
    pace = Pace(64, clock=clock)
    early, late = pace.begin(400), pace.begin(400)
    pace.end(late, told(10, 0, 30.0))  # counted both
    pace.end(early, told(10, 1, 30.0))  # left the server first, arrived last
    assert pace.pause(400) == pytest.approx(30.0)


@pytest.mark.parametrize("name", ["input", "output", "tokens"])
def test_tokens_are_held_back_too(name: str) -> None:
    pace = heard(Pace(1000, clock=Clock()), told(5000, 90, 12.0, name))
    assert pace.pause(4000) == pytest.approx(12.0)
    pace = heard(Pace(1000, clock=Clock()), told(50_000, 9000, 12.0, name))
    assert pace.pause(4000) == 0


def test_what_is_larger_than_a_limit_goes_when_all_of_it_is_there() -> None:
    clock = Clock()
    pace = heard(Pace(64, clock=clock), told(100, 40, 12.0, "input"))
    assert pace.pause(8000) == pytest.approx(12.0)
    clock.now += 12
    assert pace.pause(8000) == 0


def test_a_cached_prefix_is_learnt_to_take_little() -> None:
    clock, cached = Clock(), Usage(input_tokens=20, output_tokens=5, cache_read=9980)
    pace = Pace(1000, clock=clock)
    for _ in range(20):
        pace.end(pace.begin(40_000), told(50_000, 40_000, 60.0, "input"), cached)
    together = 0
    while pace.pause(40_000) == 0:
        pace.begin(40_000)
        together += 1
    assert together > 16  # by its bytes alone it would be four


def test_a_few_begin_before_the_limits_are_known() -> None:
    pace = Pace(64, clock=Clock())
    flights = [pace.begin(400) for _ in range(FIRST_AT_ONCE) if pace.pause(400) == 0]
    assert len(flights) == FIRST_AT_ONCE and pace.pause(400) == POLL_S
    pace.end(flights[0], Reply("ok"))
    assert pace.pause(400) == 0  # a server that tells no limits


def test_all_requests_keep_the_pause_that_one_was_given() -> None:
    clock = Clock()
    pace = heard(Pace(64, clock=clock), Reply("retry", retry_after_s=7.0))
    assert pace.pause(400) == pytest.approx(7.0)
    clock.now += 7
    assert pace.pause(400) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.lists(st.floats(0, 30), min_size=1, max_size=80))
@example(2, [1.3061021058566393, 0.0, 0.0, 0.0, 1.0])
def test_no_minute_has_more_requests_than_the_job_allows(most: int, gaps: list[float]) -> None:
    clock, begun = Clock(), list[float]()
    pace = Pace(64, most, clock)
    heard(pace, Reply("ok"))
    begun.append(clock.now)
    for gap in gaps:
        clock.now += gap
        clock.now += pace.pause(400)
        assert pace.pause(400) == 0
        pace.end(pace.begin(400), Reply("ok"))
        begun.append(clock.now)
    assert all(sum(at <= t < at + 60 for t in begun) <= most for at in begun)


@settings(deadline=None, max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 30))
def test_a_server_that_tells_its_limits_never_has_to_refuse(
    rng: random.Random, at_once: int, most: int
) -> None:
    """Every order of arrival and reply; the first few aside, which nobody could pace."""
    clock = Clock()
    pace, used, began = Pace(64, clock=clock), 0, clock.now
    flying: list[tuple[Flight, Reply | None]] = []
    refused = 0
    for _ in range(400):
        clock.now += rng.choice((0.0, 0.0, 0.01, 0.5))
        if clock.now >= began + 10:
            began, used = clock.now, 0
        waiting = [n for n, (_, reply) in enumerate(flying) if reply is None]
        step = rng.randrange(3)
        if step == 0 and len(flying) < at_once and pace.pause(400) == 0:
            flying.append((pace.begin(400), None))
        elif step == 1 and waiting:  # one arrives at the server
            n = rng.choice(waiting)
            early = not pace._heard
            fits = used < most
            used += fits
            refused += not fits and not early
            reply = told(most, most - used, began + 10 - clock.now)
            flying[n] = (flying[n][0], reply)
        elif step == 2 and (back := [n for n, (_, r) in enumerate(flying) if r is not None]):
            flight, reply = flying.pop(rng.choice(back))
            assert reply is not None
            pace.end(flight, reply)
    assert refused <= FIRST_AT_ONCE


# --- the whole, over HTTP -------------------------------------------------------------------------

FAST = {"concurrency": 8, "max_attempts": 60, "retry_for_s": 60}


def refusals(folder: Path, *, told: bool) -> tuple[int, Ran]:
    folder.mkdir()
    with StandIn(folder, latency=0.02) as api:
        api.limits = Limits({"requests": 10}, window_s=0.8, told=told)
        ran = run(write_job(folder / "job", api.url, records(f"R-{n}" for n in range(30)), FAST))
        assert ran.spent == api.bill.total_usd() and api.bill.billed_twice() == {}
        return sum(request.status == 429 for request in api.bill.requests()), ran


@pytest.mark.process
def test_requests_keep_to_the_limits_that_they_are_told(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        blind = pool.submit(refusals, tmp_path / "blind", told=False)
        paced, ran = refusals(tmp_path / "paced", told=True)
        unpaced, other = blind.result()
    assert ran.summary.unfinished == 0 == other.summary.unfinished
    assert paced <= 1
    assert unpaced >= 5 + 5 * paced, (paced, unpaced)


def test_output_tokens_per_minute_are_kept_to(tmp_path: Path, api: StandIn) -> None:
    api.limits = Limits({"output-tokens": 60, "input-tokens": 100_000}, window_s=0.6)
    ran = run(write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(12)), FAST))
    refused = sum(request.status == 429 for request in api.bill.requests())
    assert ran.summary.unfinished == 0 and refused <= 2


def test_a_limit_that_comes_back_tomorrow_is_not_waited_for(tmp_path: Path, api: StandIn) -> None:
    api.limits = Limits({"requests": 3}, window_s=8 * 3600)
    began = time.monotonic()
    ran = run(write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(12)),
                        {"concurrency": 2, "retry_for_s": 20}))  # fmt: skip
    assert time.monotonic() - began < 15
    # The last of the three may be kept back: what is left cannot be told while two are under way.
    assert ran.summary.status in ({"waiting": 9, "done": 3}, {"waiting": 10, "done": 2})
    assert set(ran.waits_for().values()) == {"provider_busy"}
    assert len(api.bill.requests()) <= 4 and "rate limit" in (ran.summary.stopped or "")


def test_the_jobs_own_pace_needs_no_headers(tmp_path: Path, api: StandIn) -> None:
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(9)),
                    {"requests_per_minute": 3, "retry_for_s": 0.1})  # fmt: skip
    process = start(job)
    try:
        wait_until(lambda: len(api.bill.requests()) == 3)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits on: that is no one's trouble
            process.wait(1)
        assert len(api.bill.requests()) == 3
    finally:
        process.kill()
        process.wait()
