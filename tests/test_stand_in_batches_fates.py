"""Batches of the stand-in: what becomes of parts, how long a batch takes, lists, and ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types.messages import MessageBatch

from tests.clients import with_client
from tests.stand_in import FATES, StandIn
from tests.test_stand_in_batches import asked, counts, params, results

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


# --- what becomes of the parts --------------------------------------------------------------------

BY_FATE = {
    "errored_invalid": ("errored", "invalid_request_error"),
    "errored_api": ("errored", "api_error"),
    "errored_overloaded": ("errored", "overloaded_error"),
    "expired": ("expired", None),
    "canceled": ("canceled", None),
    "refusal": ("succeeded", "refusal"),
    "refusal_late": ("succeeded", "refusal"),
    "max_tokens": ("succeeded", "max_tokens"),
    "pause_turn": ("succeeded", "pause_turn"),
    "context_window": ("succeeded", "model_context_window_exceeded"),
    "off_enum": ("succeeded", "end_turn"),
    "other_case": ("succeeded", "end_turn"),
    "no_usage": ("succeeded", "end_turn"),
}
FREE = {"errored_invalid", "errored_api", "errored_overloaded", "expired", "canceled", "refusal"}


def test_every_fate(api: StandIn) -> None:
    assert set(BY_FATE) == set(FATES)
    requests: Any = [{"custom_id": fate, "params": params("hello")} for fate in [*BY_FATE, "sound"]]
    api.batch_parts.by(lambda custom_id: custom_id if custom_id in FATES else None)

    async def work(client: AsyncAnthropic) -> tuple[MessageBatch, list[Any]]:
        batch = await client.messages.batches.create(requests=requests)
        return await client.messages.batches.retrieve(batch.id), await results(client, batch.id)

    batch, found = with_client(api, work)
    assert counts(batch) == {"succeeded": 9, "errored": 3, "expired": 1, "canceled": 1}
    for row in found:
        state, why = BY_FATE.get(row.custom_id, ("succeeded", "end_turn"))
        assert row.result.type == state, row.custom_id
        if state == "errored":
            assert row.result.error.error.type == why
        elif state == "succeeded":
            assert row.result.message.stop_reason == why
            assert (row.result.message.usage is None) == (row.custom_id == "no_usage")
    for part in api.bill.requests("batch"):
        assert part.fault == (part.marker if part.marker in FATES else None)
        assert bool(part.usd) == (part.marker not in FREE), part.marker


def test_fates_by_queue_text_and_mix(api: StandIn) -> None:
    api.batch_parts.push("expired", when=lambda custom_id: custom_id == "r-2")
    api.batch_parts.push("errored_api", text='my card 1"')
    api.batch_parts.push("max_tokens", times=2)

    async def work(client: AsyncAnthropic) -> None:
        await client.messages.batches.create(requests=asked(5))

    with_client(api, work)
    fates = [part.fault for part in api.bill.requests("batch")]
    assert fates == ["max_tokens", "errored_api", "expired", "max_tokens", None]
    assert api.batch_parts.waiting() == 0 and api.batch_parts.fired["max_tokens"] == 2

    drawn = []
    for _ in range(2):
        api.batch_parts.mix(3, 0.5, ["expired", "refusal"])
        with_client(api, lambda client: client.messages.batches.create(requests=asked(200)))
        drawn.append([part.fault for part in api.bill.requests("batch")[-200:]])
        api.batch_parts.clear()
    assert set(drawn[0]) == {None, "expired", "refusal"}
    assert 60 < sum(fate is not None for fate in drawn[0]) < 140
    with pytest.raises(KeyError):
        api.batch_parts.mix(1, {"no such": 1.0})


def test_many_at_once_do_not_mix_up_their_parts(api: StandIn) -> None:
    async def one(client: AsyncAnthropic, n: int) -> set[str]:
        requests: Any = [
            {"custom_id": f"{n}-{k}", "params": params(f"hello {n} {k}")} for k in range(3)
        ]
        batch = await client.messages.batches.create(requests=requests)
        return {row.custom_id for row in await results(client, batch.id)}

    async def work(client: AsyncAnthropic) -> list[set[str]]:
        return await asyncio.gather(*(one(client, n) for n in range(16)))

    found = with_client(api, work)
    assert found == [{f"{n}-{k}" for k in range(3)} for n in range(16)]
    assert len({part.sha256 for part in api.bill.billed()}) == 48


# --- how long it takes ----------------------------------------------------------------------------


async def states(client: AsyncAnthropic, id: str, times: int) -> list[str]:
    found = [await client.messages.batches.retrieve(id) for _ in range(times)]
    return [batch.processing_status for batch in found]


def test_polls_are_how_many_looks_see_it_in_progress(api: StandIn) -> None:
    api.batches.polls = 2

    async def work(client: AsyncAnthropic) -> None:
        first = await client.messages.batches.create(requests=asked(2))
        second = await client.messages.batches.create(requests=asked(2))
        await client.messages.batches.list()  # a look at both
        assert await states(client, first.id, 2) == ["in_progress", "ended"]
        with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
            await results(client, second.id)  # a look as well
        assert api.bill.total_usd() == sum(p.usd for p in api.bill.requests("batch")[:2]) > 0
        assert await states(client, second.id, 1) == ["ended"]

    with_client(api, work)


def test_seconds_pass_whether_or_not_somebody_looks(api: StandIn) -> None:
    api.batch_seconds = 0.3

    async def work(client: AsyncAnthropic) -> None:
        batch = await client.messages.batches.create(requests=asked(2))
        assert await states(client, batch.id, 2) == ["in_progress"] * 2
        assert api.bill.total_usd() == 0
        assert not any(part.finished for part in api.bill.requests("batch"))
        until = time.monotonic() + 5
        while not api.bill.total_usd() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        assert api.bill.total_usd() > 0
        assert await states(client, batch.id, 1) == ["ended"]

    with_client(api, work)


def test_a_change_reaches_a_batch_that_is_under_way(api: StandIn) -> None:
    api.batch_seconds = 60

    async def work(client: AsyncAnthropic) -> None:
        batch = await client.messages.batches.create(requests=asked(2))
        assert await states(client, batch.id, 1) == ["in_progress"]
        api.batch_parts.push("expired")
        api.batch_seconds = 0
        assert await states(client, batch.id, 1) == ["ended"]

    with_client(api, work)
    assert [part.fault for part in api.bill.requests("batch")] == ["expired", None]


@pytest.mark.process
def test_stopping_ends_and_bills_what_is_under_way(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.batch_seconds = 60
        with_client(api, lambda client: client.messages.batches.create(requests=asked(2)))
        assert api.bill.total_usd() == 0
    assert [part.usd > 0 for part in api.bill.requests("batch")] == [True, True]


@pytest.mark.process
def test_an_oracle_that_fails_fails_the_test(tmp_path: Path) -> None:
    def broken(text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError), StandIn(tmp_path, oracle=broken) as api:
        with_client(api, lambda client: client.messages.batches.create(requests=asked(1)))


# --- lists ----------------------------------------------------------------------------------------


def test_lists_are_newest_first_and_go_both_ways(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        batches = client.messages.batches
        ids = [(await batches.create(requests=asked(1))).id for _ in range(5)][::-1]
        assert [batch.id async for batch in batches.list(limit=2)] == ids
        page = await batches.list(limit=2)
        assert ([b.id for b in page.data], page.has_more) == (ids[:2], True)
        assert (page.first_id, page.last_id) == (ids[0], ids[1])
        page = await batches.list(limit=2, after_id=ids[2])
        assert ([b.id for b in page.data], page.has_more) == (ids[3:], False)
        page = await batches.list(limit=2, before_id=ids[3])
        assert ([b.id for b in page.data], page.has_more) == (ids[1:3], True)
        for wrong in (0, 1001):
            with pytest.raises(anthropic.BadRequestError):
                await batches.list(limit=wrong)

    with_client(api, work)


def test_a_list_may_lag_behind(api: StandIn) -> None:
    async def listed(client: AsyncAnthropic) -> int:
        return len((await client.messages.batches.list()).data)

    async def work(client: AsyncAnthropic) -> None:
        api.batches.list_lag_calls = 2
        batch = await client.messages.batches.create(requests=asked(1))
        assert await states(client, batch.id, 1) == ["ended"]  # who knows its id finds it
        assert [await listed(client) for _ in range(3)] == [0, 0, 1]
        await asyncio.sleep(0.35)
        api.batches.list_lag_calls, api.batches.list_lag_s = 0, 0.3
        await client.messages.batches.create(requests=asked(1))
        assert await listed(client) == 1
        await asyncio.sleep(0.35)
        assert await listed(client) == 2

    with_client(api, work)


# --- ends before the end --------------------------------------------------------------------------


def test_cancelling_stops_what_has_not_begun(api: StandIn) -> None:
    api.batch_seconds, api.batches.polls, api.batches.under_way = 60, 1, 2

    async def work(client: AsyncAnthropic) -> tuple[list[MessageBatch], list[Any]]:
        batches = client.messages.batches
        id = (await batches.create(requests=asked(5))).id
        found = [await batches.cancel(id), await batches.retrieve(id), await batches.retrieve(id)]
        with pytest.raises(anthropic.BadRequestError):
            await batches.cancel(id)
        return found, await results(client, id)

    found, rows = with_client(api, work)
    assert [batch.processing_status for batch in found] == ["canceling", "canceling", "ended"]
    assert all(batch.cancel_initiated_at is not None for batch in found)
    assert [counts(batch) for batch in found[1:]] == [
        {"processing": 5},
        {"succeeded": 2, "canceled": 3},
    ]
    states = {row.custom_id: row.result.type for row in rows}
    assert [states[f"r-{n}"] for n in range(5)] == ["succeeded"] * 2 + ["canceled"] * 3
    assert [part.usd > 0 for part in api.bill.requests("batch")] == [True] * 2 + [False] * 3
    assert all(part.finished for part in api.bill.requests("batch"))


def test_a_whole_batch_may_expire(api: StandIn) -> None:
    api.batches.push("expire")
    api.batches.under_way = 1

    async def work(client: AsyncAnthropic) -> list[dict[str, int]]:
        made = [await client.messages.batches.create(requests=asked(3)) for _ in range(2)]
        return [counts(await client.messages.batches.retrieve(batch.id)) for batch in made]

    assert with_client(api, work) == [{"succeeded": 1, "expired": 2}, {"succeeded": 3}]
    assert [bool(part.usd) for part in api.bill.requests("batch")] == [1, 0, 0, 1, 1, 1]
    with pytest.raises(KeyError):
        api.batches.push("explode")


def test_results_of_the_archived_are_gone(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> MessageBatch:
        batch = await client.messages.batches.create(requests=asked(1))
        assert len(await results(client, batch.id)) == 1
        api.batches.archived = True
        with pytest.raises(anthropic.AnthropicError, match="No `results_url`"):
            await results(client, batch.id)
        with pytest.raises(anthropic.NotFoundError):
            await client.get(f"/v1/messages/batches/{batch.id}/results", cast_to=object)
        return await client.messages.batches.retrieve(batch.id)

    batch = with_client(api, work)
    assert batch.archived_at is not None and batch.processing_status == "ended"


def test_only_what_has_ended_can_be_deleted(api: StandIn) -> None:
    api.batches.polls = 1

    async def work(client: AsyncAnthropic) -> None:
        batches = client.messages.batches
        batch = await batches.create(requests=asked(1))
        with pytest.raises(anthropic.BadRequestError):
            await batches.delete(batch.id)
        assert await states(client, batch.id, 2) == ["in_progress", "ended"]
        assert (await batches.delete(batch.id)).model_dump() == {
            "id": batch.id,
            "type": "message_batch_deleted",
        }
        assert not (await batches.list()).data
        with pytest.raises(anthropic.NotFoundError):
            await batches.retrieve(batch.id)

    with_client(api, work)
    assert api.bill.total_usd() > 0
