"""OpenAI's batches and files of the stand-in, under the unmodified OpenAI SDK."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types import Batch

from tests.stand_in import FATES, StandIn

pytestmark = pytest.mark.process

T = TypeVar("T")
MODEL = "gpt-6.1-sol"
URL: Any = "/v1/chat/completions"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


def with_openai(api: StandIn, work: Callable[[AsyncOpenAI], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        settings = {"api_key": "k", "max_retries": 0, "timeout": 5.0, **options}
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(base_url=f"{api.url}/v1", http_client=http, **settings) as client:
            return await work(client)

    return asyncio.run(main())


def body(text: str, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": MODEL, "messages": messages, "max_completion_tokens": 50} | changes


def line(custom_id: str, text: str, **changes: Any) -> str:
    asked = {"custom_id": custom_id, "method": "POST", "url": URL, "body": body(text)} | changes
    return json.dumps(asked)


def lines(count: int) -> list[str]:
    return [line(f"r-{n}", f"where is my card {n}") for n in range(count)]


async def upload(client: AsyncOpenAI, content: list[str]) -> str:
    file = ("in.jsonl", "".join(f"{text}\n" for text in content).encode())
    return (await client.files.create(file=file, purpose="batch")).id


async def make(client: AsyncOpenAI, content: list[str], **changes: Any) -> Batch:
    return await client.batches.create(
        input_file_id=await upload(client, content),
        endpoint=URL,
        completion_window="24h",
        **changes,
    )


async def read(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    content = await client.files.content(file_id)
    return [json.loads(text) for text in content.text.split("\n")[:-1]]


def test_a_batch_from_its_file_to_its_output(api: StandIn) -> None:
    api.batches.polls = 3

    async def work(client: AsyncOpenAI) -> None:
        raw = "".join(f"{text}\n" for text in lines(20)).encode()
        file = await client.files.create(file=("in.jsonl", raw), purpose="batch")
        assert (file.object, file.filename, file.bytes) == ("file", "in.jsonl", len(raw))
        assert (await client.files.retrieve(file.id)).id == file.id
        assert (await client.files.content(file.id)).content == raw
        before, metadata = int(time.time()), {"run": "7", "chunk": "1"}
        made = await client.batches.create(
            input_file_id=file.id, endpoint=URL, completion_window="24h", metadata=metadata
        )
        assert (made.status, made.input_file_id, made.metadata) == ("validating", file.id, metadata)
        assert before <= made.created_at <= time.time()
        assert made.output_file_id is None and made.error_file_id is None and made.errors is None
        found = [await client.batches.retrieve(made.id) for _ in range(4)]
        statuses = [batch.status for batch in found]
        assert statuses == ["in_progress", "in_progress", "finalizing", "completed"]
        assert found[0].request_counts is not None
        assert found[0].request_counts.model_dump() == {"completed": 0, "failed": 0, "total": 20}
        last = found[3]
        assert last.request_counts is not None and last.completed_at is not None
        assert last.request_counts.model_dump() == {"completed": 20, "failed": 0, "total": 20}
        assert last.error_file_id is None
        rows = await read(client, last.output_file_id)
        ids = [row["custom_id"] for row in rows]
        assert sorted(ids) == sorted(f"r-{n}" for n in range(20))
        assert ids != [f"r-{n}" for n in range(20)]
        assert set(rows[0]) == {"id", "custom_id", "response", "error"} and rows[0]["error"] is None
        assert rows[0]["response"]["status_code"] == 200
        answer = rows[0]["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == "lost_card"

    with_openai(api, work, _strict_response_validation=True)


def test_each_part_is_billed_at_half_the_price(api: StandIn) -> None:
    async def work(client: AsyncOpenAI) -> list[dict[str, Any]]:
        await client.chat.completions.create(**body("where is my card 0"))
        batch = await make(client, lines(3))
        return await read(client, (await client.batches.retrieve(batch.id)).output_file_id)

    rows = with_openai(api, work)
    (live,), parts = api.bill.requests("chat"), api.bill.requests("chat_batch")
    assert parts[0].usage is not None
    spent = parts[0].usage["prompt_tokens"] * 2 + parts[0].usage["completion_tokens"] * 10
    assert parts[0].usd == Decimal(spent) / 2_000_000 > 0
    assert parts[0].usd * 2 == live.usd
    assert api.bill.total_usd() == live.usd + sum(part.usd for part in parts)
    shown = {row["custom_id"]: row["response"]["body"]["usage"] for row in rows}
    for n, part in enumerate(parts):
        assert (part.marker, part.text, part.status) == (f"r-{n}", f"where is my card {n}", 200)
        assert part.raw == json.dumps(body(f"where is my card {n}"))
        assert part.usage == shown[f"r-{n}"]
    assert list(api.bill.billed_twice().values()) == [2]
    free = [*api.bill.requests("file_create"), *api.bill.requests("chat_batch_create")]
    assert [(int(entry.usd), entry.status, entry.text) for entry in free] == [(0, 200, "")] * 2


def test_every_fate(api: StandIn) -> None:
    api.batch_parts.by(lambda custom_id: custom_id if custom_id in FATES else None)
    asked = [line(fate, "hello") for fate in [*FATES, "sound"]]
    asked.append(line("bad", "hello", body=body("hello", temperature=0)))

    async def work(client: AsyncOpenAI) -> tuple[Batch, list[Any], list[Any]]:
        batch = await client.batches.retrieve((await make(client, asked)).id)
        good, bad = batch.output_file_id, batch.error_file_id
        return batch, await read(client, good), await read(client, bad)

    batch, good, bad = with_openai(api, work)
    failed = {"errored_invalid": 400, "errored_api": 500, "errored_overloaded": 529, "bad": 400}
    gone = {"expired": "batch_expired", "canceled": "batch_cancelled"}
    assert batch.status == "completed" and batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(good), 4)
    assert batch.request_counts.total == len(asked) == len(good) + len(bad)
    by_id = {row["custom_id"]: row for row in bad}
    assert set(by_id) == set(failed) | set(gone)
    for custom_id, status in failed.items():
        row = by_id[custom_id]
        assert (row["response"]["status_code"], row["error"]) == (status, None)
        assert row["response"]["body"]["error"]["message"]
    for custom_id, code in gone.items():
        row = by_id[custom_id]
        assert (row["response"], row["error"]["code"]) == (None, code)
    reasons = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["finish_reason"] for row in good
    }
    assert (reasons["max_tokens"], reasons["refusal_late"]) == ("length", "content_filter")
    for part in api.bill.requests("chat_batch"):
        assert bool(part.usd) == (part.marker not in by_id), part.marker


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (["{"], "invalid_json_line", 1),
        ([], "empty_file", None),
        ([*lines(1), line("r-0", "again")], "duplicate_custom_id", 2),
        ([line("a", "b", url="/v1/responses")], "invalid_url", 1),
        ([line("a", "b", method="GET")], "invalid_url", 1),
        (['{"custom_id": "a"}'], "missing_required_parameter", 1),
        ([*lines(2), line("a", "b", body=body("b", model="gpt-6-sol"))], "mismatched_model", 3),
        (lines(4), "too_many_tasks", None),
    ],
)
def test_a_file_that_is_wrong_fails_the_whole_batch(
    api: StandIn, content: list[str], code: str, number: int | None
) -> None:
    api.chat_batches.most_parts = 3

    async def work(client: AsyncOpenAI) -> Batch:
        made = await make(client, content)
        assert made.status == "validating" and made.errors is None
        return await client.batches.retrieve(made.id)

    batch = with_openai(api, work)
    assert batch.status == "failed" and batch.failed_at is not None
    assert batch.errors is not None and batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [(code, number)]
    assert batch.output_file_id is None and api.bill.requests("chat_batch") == []


def test_a_whole_batch_may_fail_or_expire(api: StandIn) -> None:
    api.batches.push("fail", "expire")
    api.batches.under_way = 1

    async def work(client: AsyncOpenAI) -> tuple[Batch, Batch, list[Any]]:
        ids = [(await make(client, lines(3))).id for _ in range(2)]
        failed, expired = [await client.batches.retrieve(id) for id in ids]
        rows = await read(client, expired.error_file_id)
        assert len(await read(client, expired.output_file_id)) == 1
        return failed, expired, rows

    failed, expired, rows = with_openai(api, work)
    assert (failed.status, expired.status) == ("failed", "expired")
    assert failed.errors is not None and failed.errors.data
    assert expired.expired_at is not None and expired.errors is None
    assert {row["error"]["code"] for row in rows} == {"batch_expired"} and len(rows) == 2
    assert [bool(part.usd) for part in api.bill.requests("chat_batch")] == [True, False, False]


def test_cancelling(api: StandIn) -> None:
    api.batch_seconds, api.batches.polls, api.batches.under_way = 60, 1, 1

    async def work(client: AsyncOpenAI) -> tuple[list[str], list[Any]]:
        id = (await make(client, lines(3))).id
        first = await client.batches.cancel(id)
        found = [first, *[await client.batches.retrieve(id) for _ in range(2)]]
        with pytest.raises(openai.BadRequestError):
            await client.batches.cancel(id)
        return [batch.status for batch in found], await read(client, found[-1].error_file_id)

    statuses, rows = with_openai(api, work)
    assert statuses == ["cancelling", "cancelling", "cancelled"]
    assert [row["error"]["code"] for row in rows] == ["batch_cancelled"] * 2
    assert [bool(part.usd) for part in api.bill.requests("chat_batch")] == [True, False, False]


def test_a_lost_reply_leaves_one_batch_that_its_metadata_finds(api: StandIn) -> None:
    api.faults.push("rst_after", endpoint="chat_batch_create")
    api.batches.list_lag_calls = 1

    async def look(client: AsyncOpenAI) -> list[Any]:
        return [batch.metadata async for batch in client.batches.list(limit=1)]

    with pytest.raises(openai.APIConnectionError):
        with_openai(api, lambda client: make(client, lines(2), metadata={"chunk": "2"}))
    with_openai(api, lambda client: make(client, lines(1), metadata={"chunk": "3"}))
    assert with_openai(api, look) == []
    assert with_openai(api, look) == [{"chunk": "3"}, {"chunk": "2"}]
    assert len(api.bill.requests("chat_batch")) == 3
