"""Message Batches of the stand-in, under the unmodified Anthropic SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse

from tests.clients import FORMAT, create, marked, with_client
from tests.stand_in import StandIn

pytestmark = pytest.mark.process

MODEL = "claude-sonnet-5-5"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


def params(text: str, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    asked = {"model": MODEL, "max_tokens": 100, "messages": messages, "output_config": FORMAT}
    return asked | changes


def asked(count: int, **changes: Any) -> list[Any]:
    return [
        {"custom_id": f"r-{n}", "params": params(f"where is my card {n}", **changes)}
        for n in range(count)
    ]


async def results(client: AsyncAnthropic, id: str) -> list[MessageBatchIndividualResponse]:
    return [row async for row in await client.messages.batches.results(id)]


def counts(batch: MessageBatch) -> dict[str, int]:
    return {name: n for name, n in batch.request_counts.model_dump().items() if n}


# --- what a batch looks like ----------------------------------------------------------------------


def test_a_batch_from_its_making_to_its_results(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> tuple[MessageBatch, MessageBatch, list[Any]]:
        made = await client.messages.batches.create(requests=asked(20))
        ended = await client.messages.batches.retrieve(made.id)
        return made, ended, await results(client, made.id)

    before = time.time()
    made, ended, found = with_client(api, work, _strict_response_validation=True)
    assert (made.type, made.processing_status) == ("message_batch", "in_progress")
    assert counts(made) == {"processing": 20}
    assert made.results_url is None and made.ended_at is None
    assert made.cancel_initiated_at is None and made.archived_at is None
    assert before <= made.created_at.timestamp() <= time.time()
    assert (made.expires_at - made.created_at).total_seconds() == 24 * 3600
    assert (ended.id, ended.created_at) == (made.id, made.created_at)
    assert ended.processing_status == "ended" and counts(ended) == {"succeeded": 20}
    assert ended.results_url == f"{api.url}/v1/messages/batches/{made.id}/results"
    assert ended.ended_at is not None and ended.ended_at >= made.created_at
    ids = [row.custom_id for row in found]
    assert sorted(ids) == sorted(f"r-{n}" for n in range(20))
    assert ids != [f"r-{n}" for n in range(20)]
    message = found[0].result.message
    assert json.loads(message.content[0].text) == {"intent": "lost_card"}
    assert message.usage.service_tier == "batch"


def test_the_object_names_neither_its_parts_nor_who_made_it(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> Any:
        raw = await client.messages.batches.with_raw_response.create(requests=asked(1))
        return json.loads(raw.http_response.content)

    shown = with_client(api, work)
    assert set(shown) == {
        "id", "type", "processing_status", "request_counts", "created_at", "expires_at", "ended_at",
        "archived_at", "cancel_initiated_at", "results_url",
    }  # fmt: skip


def test_two_are_never_in_order_and_the_raw_lines_have_no_blank_one(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> bytes:
        batch = await client.messages.batches.create(requests=asked(2))
        raw = await client.messages.batches.with_raw_response.results(batch.id)
        return await raw.http_response.aread()

    first, second, rest = with_client(api, work).split(b"\n")
    assert [json.loads(line)["custom_id"] for line in (first, second)] == ["r-1", "r-0"]
    assert rest == b""
    api.batches.shuffled = False
    assert with_client(api, work).startswith(b'{"custom_id": "r-0"')


def test_letters_leave_unescaped(api: StandIn) -> None:
    api.claude.oracle = lambda text: "a\u2028b\x85é"

    async def work(client: AsyncAnthropic) -> tuple[bytes, list[Any]]:
        batch = await client.messages.batches.create(requests=asked(1, output_config={}))
        raw = await client.messages.batches.with_raw_response.results(batch.id)
        return await raw.http_response.aread(), await results(client, batch.id)

    line, (row,) = with_client(api, work)
    assert "a\u2028b\x85é" in line.decode()
    assert row.result.message.content[0].text == "a\u2028b\x85é"


# --- the bill -------------------------------------------------------------------------------------


def test_each_part_is_billed_at_half_the_price(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> tuple[str, list[Any]]:
        await create(client, "where is my card 0")
        batch = await client.messages.batches.create(requests=asked(3))
        return batch.id, await results(client, batch.id)

    id, found = with_client(api, work)
    (live,), parts = api.bill.requests(), api.bill.requests("batch")
    assert parts[0].usage is not None and live.usage is not None
    spent = parts[0].usage["input_tokens"] * 2 + parts[0].usage["output_tokens"] * 10
    assert parts[0].usd == Decimal(spent) / 2_000_000 > 0
    assert parts[0].usd * 2 == live.usd
    assert api.bill.total_usd() == live.usd + sum(part.usd for part in parts)
    shown = {row.custom_id: row.result.message.usage.model_dump() for row in found}
    for n, part in enumerate(parts):
        assert (part.id, part.marker) == (f"{id}/r-{n}", f"r-{n}")
        assert part.text == f"where is my card {n}"
        assert (part.status, part.finished, part.usage) == (200, True, shown[f"r-{n}"])
    made = api.bill.requests("batch_create")
    assert [(int(entry.usd), entry.status, entry.text) for entry in made] == [(0, 200, "")]
    assert all(part.raw in made[0].raw for part in parts)
    # One was asked on both lanes: with other bytes, as the SDK orders names, but the same request.
    assert parts[0].sha256 != live.sha256
    assert api.bill.billed_twice() == {live.sha256: 2}


def test_a_part_is_on_the_bill_as_it_stood_to_the_byte(api: StandIn) -> None:
    text = json.dumps(params('zwölf } ] \\ "'), ensure_ascii=False, indent=3)
    other = text.replace("zwölf", "\\u00e9")
    first, second = f'{{"params" : {text} , "custom_id":"a"}}', '"custom_id":"b" ,"params":' + other
    body = f'{{ "requests" :\n[ {first} ,\n{{{second}}} ] }}'

    async def work(client: AsyncAnthropic) -> None:
        await client.post("/v1/messages/batches", content=body.encode(), cast_to=object)

    with_client(api, work)
    whole, escaped = api.bill.requests("batch")
    assert (whole.raw, escaped.raw) == (text, other)
    assert whole.text == 'zwölf } ] \\ "' and whole.usd > 0


def test_parts_that_are_worked_on_side_by_side_all_write_the_cache(api: StandIn) -> None:
    api.batches.at_once = 3
    system = [marked("rules " * 400, "1h")]

    async def work(client: AsyncAnthropic) -> None:
        await client.messages.batches.create(requests=asked(5, system=system))

    with_client(api, work)
    split = [
        (part.usage["cache_creation"]["ephemeral_1h_input_tokens"],
         part.usage["cache_read_input_tokens"])
        for part in api.bill.requests("batch") if part.usage
    ]  # fmt: skip
    assert [bool(written) for written, _ in split] == [True] * 3 + [False] * 2
    assert [bool(read) for _, read in split] == [False] * 3 + [True] * 2


def test_ten_thousand_parts_are_quick(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        await client.messages.batches.create(requests=asked(10_000, output_config={}))

    started = time.monotonic()
    with_client(api, work, timeout=60)
    assert len(api.bill.requests("batch")) == 10_000
    assert time.monotonic() - started < 20


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [{"custom_id": "", "params": {}}],
        [{"custom_id": "a b", "params": {}}],
        [{"custom_id": "a" * 65, "params": {}}],
        [{"custom_id": "a\n", "params": {}}],
        [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}],
        [{"custom_id": "a"}],
        [{"custom_id": "a", "params": {}, "metadata": {}}],
        [{"custom_id": "a", "params": []}],
        [{"custom_id": str(n), "params": {}} for n in range(4)],
    ],
)
def test_what_is_wrong_with_a_batch_is_a_400(api: StandIn, requests: list[Any]) -> None:
    api.claude_batches.most_parts = 3

    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.batches.create(requests=requests)
        assert not (await client.messages.batches.list()).data

    with_client(api, work)
    assert api.bill.requests("batch") == []


def test_what_is_too_large_is_a_413_and_a_bad_key_a_401(api: StandIn) -> None:
    api.claude_batches.most_bytes = 100

    async def large(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.ContentTooLargeError):
            await client.messages.batches.create(requests=asked(1))

    async def locked(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.batches.list()
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.batches.create(requests=asked(1))

    with_client(api, large)
    with_client(api, locked, api_key="bad-key")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"temperature": 0}, "invalid_request_error"),
        ({"model": "claude-1"}, "not_found_error"),
        ({"max_tokens": 0}, "invalid_request_error"),
        ({"stream": True}, "invalid_request_error"),
        ({"speed": "standard"}, "invalid_request_error"),
    ],
)
def test_what_is_wrong_with_a_part_spoils_that_part(
    api: StandIn, changes: dict[str, Any], kind: str
) -> None:
    async def work(client: AsyncAnthropic) -> dict[str, Any]:
        bad: Any = {"custom_id": "bad", "params": params("hello", **changes)}
        batch = await client.messages.batches.create(requests=[*asked(2), bad])
        assert counts(batch) == {"processing": 3}
        batch = await client.messages.batches.retrieve(batch.id)
        assert counts(batch) == {"succeeded": 2, "errored": 1}
        return {row.custom_id: row.result for row in await results(client, batch.id)}

    found = with_client(api, work)
    assert found["bad"].type == "errored"
    assert (found["bad"].error.type, found["bad"].error.error.type) == ("error", kind)
    assert {part.marker: bool(part.usd) for part in api.bill.requests("batch")} == {
        "r-0": True, "r-1": True, "bad": False,
    }  # fmt: skip
