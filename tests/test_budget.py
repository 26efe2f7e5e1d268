"""The cap: never passed, not for a moment, and no reason to stop what is free."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.limits.budget import Budget
from tests.jobs import records, run, write_job
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")
CENT = Decimal("0.01")
amounts = st.integers(0, 400).map(lambda n: Decimal(n) / 1000)


@settings(deadline=None)
@given(
    cap=amounts,
    spent=amounts,
    calls=st.lists(
        st.tuples(amounts, st.fractions(0, 1), st.integers(0, 3), st.integers(0, 3)), max_size=30
    ),
)
def test_spent_and_reserved_never_pass_the_cap(
    cap: Decimal, spent: Decimal, calls: list[tuple[Decimal, Fraction, int, int]]
) -> None:
    async def main() -> tuple[Decimal, int]:
        budget, open_, paid = Budget(cap, spent), Decimal(0), Decimal(0)
        turned_away = 0

        async def call(worst: Decimal, part: Fraction, before: int, during: int) -> None:
            nonlocal open_, paid, turned_away
            for _ in range(before):
                await asyncio.sleep(0)
            if not await budget.reserve(worst):
                # For good: nothing else is open whose end could make room.
                assert spent + paid + worst > cap
                turned_away += 1
                return
            open_ += worst
            assert worst == 0 or spent + paid + open_ <= cap
            for _ in range(during):
                await asyncio.sleep(0)
            cost = (worst * part.numerator / part.denominator).quantize(Decimal("1e-12"))
            open_, paid = open_ - worst, paid + cost
            budget.settle(worst, cost)
            assert budget.spent == spent + paid

        # A deadlock would be a waiter that nobody wakes.
        await asyncio.wait_for(asyncio.gather(*(call(*each) for each in calls)), 5)
        assert budget.left == cap - spent - paid
        return paid, turned_away

    paid, turned_away = asyncio.run(main())
    assert paid == 0 or spent + paid <= cap
    if spent + sum(worst for worst, *_ in calls) <= cap:
        assert turned_away == 0


def test_one_that_needs_all_of_it_waits_until_the_others_are_done() -> None:
    async def main() -> None:
        budget = Budget(Decimal(1), Decimal(0))
        assert await budget.reserve(Decimal("0.4"))
        large = asyncio.create_task(budget.reserve(Decimal("0.9")))
        await asyncio.sleep(0)
        assert not large.done()
        assert await budget.reserve(Decimal("0.1"))
        budget.settle(Decimal("0.4"), Decimal("0.05"))
        await asyncio.sleep(0)
        assert not large.done()
        budget.settle(Decimal("0.1"), Decimal("0.05"))
        assert await large and budget.left == 0

    asyncio.run(main())


def test_a_cent_goes_as_far_as_it_goes_and_a_raised_cap_goes_on(
    tmp_path: Path, api: StandIn
) -> None:
    rows = [*records(f"R-{n}" for n in range(60)), *records(["T-1"], "template")]
    job = write_job(tmp_path / "job", api.url, rows, {"budget_usd": 0.01, "concurrency": 8})
    ran = run(job)
    sent = len(api.bill.requests())
    assert api.bill.total_usd() == ran.spent <= CENT
    assert 0 < sent < 60
    waiting = {name for name, row in ran.rows.items() if row["status"] == "waiting"}
    assert len(waiting) == 60 - sent == ran.summary.unfinished
    assert ran.waits_for() == dict.fromkeys(waiting, "budget")
    assert ran.rows["T-1"]["status"] == "done"
    worst = Decimal("0.007")  # more than any of these requests could cost
    assert ran.spent > CENT - worst

    ran = run(job, "escalation.budget_usd=1")
    assert ran.summary.unfinished == 0
    assert len(api.bill.requests()) == 60 and api.bill.billed_twice() == {}
    assert api.bill.total_usd() == ran.spent <= 1


def test_a_cap_of_nothing_sends_nothing(tmp_path: Path, api: StandIn) -> None:
    rows = [*records(["R-1", "R-2"]), *records(["T-1"], "template")]
    ran = run(write_job(tmp_path / "job", api.url, rows, {"budget_usd": 0}))
    assert api.bill.requests(None) == []
    assert ran.waits_for() == {"R-1": "budget", "R-2": "budget"}
    assert ran.rows["T-1"]["status"] == "done" and ran.spent == 0


def test_what_is_too_large_for_the_cap_does_not_keep_the_small_ones_waiting(
    tmp_path: Path, api: StandIn
) -> None:
    rows = [*records(["large"], note="long " * 4000), *records(["small", "other"], note="")]
    prompt = {"user": "{{ message }} {{ note }}"}
    job = write_job(tmp_path / "job", api.url, rows, {"budget_usd": 0.02}, prompt=prompt)
    ran = run(job)
    assert ran.waits_for() == {"large": "budget"}
    assert {row["status"] for name, row in ran.rows.items() if name != "large"} == {"done"}


def test_a_lost_reply_keeps_its_share_of_the_cap(tmp_path: Path, api: StandIn) -> None:
    api.faults.push("rst_after", times=100)
    job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(20)),
                    {"budget_usd": 0.02})  # fmt: skip
    ran = run(job)
    assert Decimal("0.015") < ran.spent <= Decimal("0.02")
    assert api.bill.total_usd() <= ran.spent
    lost = [row for row in ran.rows.values() if row["reason"] == "reply_lost"]
    assert len(lost) == len(api.bill.requests()) < 20
    assert set(ran.waits_for().values()) == {"budget"}


def test_the_cap_holds_to_the_cent_in_a_workspace_pinned_to_the_us(
    tmp_path: Path, api: StandIn
) -> None:
    api.claude.geo = "us"  # billed 1.1 times
    api.faults.push("max_tokens", times=100)  # each as dear as its output can be
    # Two of the three would fit at the usual price, and be billed 8.7 cents.
    dear = {"max_tokens": 4000, "budget_usd": "0.0865"}
    ran = run(write_job(tmp_path / "job", api.url, records(["R-1", "R-2", "R-3"]), dear))
    assert len(api.bill.requests()) == 1
    assert CENT * 4 < api.bill.total_usd() == ran.spent <= Decimal("0.0865")
    ran = run(tmp_path / "job" / "job.yaml", "escalation.budget_usd=0.15")
    assert len(api.bill.requests()) == 3 and api.bill.total_usd() == ran.spent <= Decimal("0.15")
