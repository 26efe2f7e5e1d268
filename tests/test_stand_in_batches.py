"""The stand-in's batches of both APIs, under the unmodified SDKs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.clients import chat, chat_body, create, request_body, with_client, with_openai
from tests.jobs import wait_until
from tests.stand_in import FATES, ROW_FAULTS, StandIn

pytestmark = pytest.mark.process
TEXT = "where is my card"
URL: Any = "/v1/chat/completions"
N = 9


class OfClaude:
    parts, one, rows = "batch", "batch_", "batch_results"
    ongoing, over, cancelling = "in_progress", "ended", "canceling"

    def __init__(self, client: AsyncAnthropic) -> None:
        self.client = client
        self.batches = client.messages.batches

    async def make(self, count: int, ids: list[str] | None = None, **changes: Any) -> Any:
        names = ids or [f"r-{n}" for n in range(count)]
        asked: Any = [{"custom_id": id, "params": request_body(TEXT, **changes)} for id in names]
        return await self.batches.create(requests=asked)

    async def status(self, id: str) -> str:
        return (await self.batches.retrieve(id)).processing_status

    async def single(self) -> object:
        return await create(self.client)

    async def results(self, id: str) -> list[tuple[str, Any, Any]]:
        """Each row's id, its state, and the usage of its answer."""
        found = []
        async for row in await self.batches.results(id):
            usage = row.result.message.usage if row.result.type == "succeeded" else None
            found.append((row.custom_id, row.result.type, usage))
        return found


class OfOpenAI:
    parts, one, rows = "chat_batch", "chat_batch_", "file_content"
    ongoing, over, cancelling = "in_progress", "completed", "cancelling"

    def __init__(self, client: AsyncOpenAI) -> None:
        self.client = client
        self.batches = client.batches

    async def make(self, count: int, ids: list[str] | None = None, **changes: Any) -> Any:
        names = ids or [f"r-{n}" for n in range(count)]
        return await self.of(*(line(id, chat_body(TEXT, **changes)) for id in names))

    async def of(self, *lines: str) -> Any:
        content = "".join(f"{text}\n" for text in lines).encode()
        file = await self.client.files.create(file=("in.jsonl", content), purpose="batch")
        return await self.batches.create(
            input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"of": lines[0]}
        )

    async def status(self, id: str) -> str:
        return (await self.batches.retrieve(id)).status

    async def single(self) -> object:
        return await chat(self.client)

    async def results(self, id: str) -> list[tuple[str, Any, Any]]:
        batch, found = await self.batches.retrieve(id), []
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            text = (await self.client.files.content(file)).text
            found += [
                self._row(json.loads(row)) for row in text.removesuffix("\n").split("\n") if text
            ]
        return found

    def _row(self, row: dict[str, Any]) -> tuple[str, Any, Any]:
        answer = row["response"] or {"status_code": None, "body": {}}
        gone = {"batch_expired": "expired", "batch_cancelled": "canceled"}
        if row["error"]:
            return row["custom_id"], gone[row["error"]["code"]], None
        state = "succeeded" if answer["status_code"] == 200 else "errored"
        return row["custom_id"], state, answer["body"].get("usage")


def line(id: str, body: Any, **changes: Any) -> str:
    return json.dumps({"custom_id": id, "method": "POST", "url": URL, "body": body} | changes)


@pytest.fixture(params=[OfClaude, OfOpenAI])
def of(request: pytest.FixtureRequest) -> Any:
    return request.param


def do(api: StandIn, of: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    with_any: Any = with_client if of is OfClaude else with_openai
    return with_any(api, lambda client: work(of(client)))


def entries(api: StandIn, of: Any) -> dict[str, Any]:
    return {part.id.split("/")[1]: part for part in api.bill.requests(of.parts)}


def test_a_batch_from_its_making_to_its_bill(api: StandIn, of: Any) -> None:
    api.batches.polls = 1

    async def work(side: Any) -> tuple[list[str], list[Any]]:
        await side.single()
        made = await side.make(N)
        statuses = [await side.status(made.id) for _ in range(2)]
        assert [batch.id async for batch in side.batches.list()] == [made.id]
        return statuses, await side.results(made.id)

    statuses, found = do(api, of, work)
    assert statuses == [of.ongoing, of.over]
    ids = [row[0] for row in found]
    assert ids != sorted(ids) == [f"r-{n}" for n in range(N)]  # never in the order asked
    assert {row[1] for row in found} == {"succeeded"}
    (live,) = api.bill.requests("messages" if of is OfClaude else "chat")
    parts = entries(api, of)
    assert {(part.usd * 2, part.text) for part in parts.values()} == {(live.usd, TEXT)}
    (sent,) = api.bill.requests("batch_create" if of is OfClaude else "file_create")
    assert all(part.raw in sent.raw for part in parts.values())  # to the byte
    assert api.bill.total_usd() == live.usd + sum(part.usd for part in parts.values()) > 0
    assert list(api.bill.billed_twice().values()) == [N + 1]
    (making,) = api.bill.requests(f"{of.one}create")
    assert (int(making.usd), making.status, making.text) == (0, 200, "")


FREE = {"errored_invalid", "errored_api", "errored_overloaded", "expired", "canceled"}


def test_every_fate_of_a_part(api: StandIn, of: Any) -> None:
    for fate in FATES:
        api.faults.push(fate, endpoint="part")

    async def work(side: Any) -> list[Any]:
        rows: list[Any] = await side.results((await side.make(0, [*FATES, "sound"])).id)
        return rows

    found = do(api, of, work)
    assert len(found) == len(FATES) + 1
    for id, state, usage in found:
        assert state == (id.partition("_")[0] if id in FREE else "succeeded"), id
        assert (usage is None) == (id in {*FREE, "no_usage"}), id
    for id, part in entries(api, of).items():
        unbilled = FREE | ({"refusal"} if of is OfClaude else set())
        assert part.fault == (id if id in FATES else None)
        assert part.finished and bool(part.usd) == (id not in unbilled), id


def test_a_part_that_is_wrong_is_an_error_of_its_own(api: StandIn, of: Any) -> None:
    async def work(side: Any) -> list[Any]:
        rows: list[Any] = await side.results((await side.make(1, temperature=0)).id)
        return rows

    assert do(api, of, work) == [("r-0", "errored", None)]
    assert entries(api, of)["r-0"].status == 400 and api.bill.total_usd() == 0


# --- how long it takes, and how it ends -----------------------------------------------------------


def test_seconds_and_a_change_that_reaches_a_batch_under_way(api: StandIn, of: Any) -> None:
    api.batches.seconds = 60

    async def work(side: Any) -> list[str]:
        id = (await side.make(2)).id
        found = [await side.status(id)]
        assert api.bill.total_usd() == 0
        api.faults.push("expired", endpoint="part")
        api.batches.seconds = 0
        return [*found, await side.status(id)]

    assert do(api, of, work) == [of.ongoing, of.over]
    api.batches.seconds = 0.1
    do(api, of, lambda side: side.make(1))
    wait_until(lambda: len(api.bill.billed()) == 2)  # nobody looks
    assert [part.fault for part in api.bill.requests(of.parts)] == ["expired", None, None]


def test_cancelling(api: StandIn, of: Any) -> None:
    api.batches.seconds = 60

    async def work(side: Any) -> tuple[Any, list[Any]]:
        id = (await side.make(3)).id
        shown = await side.batches.cancel(id)
        await side.status(id)
        with pytest.raises((anthropic.BadRequestError, openai.BadRequestError)):
            await side.batches.cancel(id)
        return shown, await side.results(id)

    shown, rows = do(api, of, work)
    assert of.cancelling in (
        getattr(shown, "processing_status", None),
        shown.to_dict().get("status"),
    )
    assert {row[1] for row in rows} == {"canceled"} and api.bill.total_usd() == 0


def test_a_whole_batch_may_expire(api: StandIn, of: Any) -> None:
    api.batches.push("expire")

    async def work(side: Any) -> list[list[Any]]:
        return [await side.results((await side.make(2)).id) for _ in range(2)]

    expired, sound = do(api, of, work)
    assert {row[1] for row in expired} == {"expired"} and {row[1] for row in sound} == {"succeeded"}
    assert [bool(part.usd) for part in api.bill.requests(of.parts)] == [0, 0, 1, 1]


def test_a_list_may_lag_behind_and_goes_on_after_a_cursor(api: StandIn, of: Any) -> None:
    async def listed(side: Any) -> list[str]:
        return [batch.id async for batch in side.batches.list(limit=1)]

    async def work(side: Any) -> None:
        api.batches.list_lag_calls = 1
        ids = [(await side.make(1)).id for _ in range(3)]
        assert await side.status(ids[0]) == of.over  # who knows its id finds it
        assert await listed(side) == []
        assert await listed(side) == ids[::-1]
        api.batches.list_lag_calls, api.batches.list_lag_s = 0, 0.3
        await side.make(1)
        assert len(await listed(side)) < 4
        await asyncio.sleep(0.35)
        assert len(await listed(side)) == 4

    do(api, of, work)


def test_stopping_ends_and_bills_what_is_under_way(api: StandIn, of: Any) -> None:
    api.batches.seconds = 60
    do(api, of, lambda side: side.make(2))
    assert api.bill.total_usd() == 0
    api.stop()
    assert [part.usd > 0 for part in api.bill.requests(of.parts)] == [True, True]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "made"),
    [("529", 0), ("429", 0), ("rst_before", 0), ("504_after", 1), ("rst_after", 1), ("empty", 1)],
)
def test_a_fault_at_the_making_of_a_batch(api: StandIn, of: Any, name: str, made: int) -> None:
    api.faults.push(name, endpoint=f"{of.one}create")

    async def work(side: Any) -> int:
        with pytest.raises((anthropic.APIError, openai.APIError, json.JSONDecodeError)):
            await side.make(3)
        return len((await side.batches.list()).data)

    assert do(api, of, work) == made
    (making,) = api.bill.requests(f"{of.one}create")
    assert (making.fault, int(making.usd)) == (name, 0)
    assert [part.usd > 0 for part in api.bill.requests(of.parts)] == [True] * 3 * made


@pytest.mark.parametrize("step", ["retrieve", "list", "cancel"])
def test_a_fault_at_another_step_is_met_there_alone(api: StandIn, of: Any, step: str) -> None:
    api.batches.seconds = 60

    async def work(side: Any) -> None:
        id = (await side.make(1)).id
        api.faults.push("500", endpoint=f"{of.one}{step}", when=lambda path: path.startswith("/v1"))
        await side.single()
        given = () if step == "list" else (id,)
        with pytest.raises((anthropic.InternalServerError, openai.InternalServerError)):
            await getattr(side.batches, step)(*given)

    do(api, of, work)
    assert [request.fault for request in api.bill.requests(f"{of.one}{step}")] == ["500"]


ENDS: dict[str, Any] = {
    "cut": (httpx2.RemoteProtocolError, openai.APIConnectionError),
    **dict.fromkeys(("cut_in_line", "malformed_row", "blank_last_row"), json.JSONDecodeError),
    "500": (anthropic.InternalServerError, openai.InternalServerError),
}


@pytest.mark.parametrize("name", [*ROW_FAULTS, "cut", "500", "empty"])
def test_results_that_are_off_are_whole_when_read_again(api: StandIn, of: Any, name: str) -> None:
    api.faults.push(name, endpoint=of.rows)

    async def work(side: Any) -> list[str] | None:
        id, found = (await side.make(N)).id, None
        if name in ENDS:
            with pytest.raises(ENDS[name]):
                await side.results(id)
        else:
            found = [row[0] for row in await side.results(id)]
        assert len(await side.results(id)) == N
        return found

    found = do(api, of, work)
    counts = {"double_row": N + 1, "stray_row": N + 1, "missing_row": N - 1, "cut_at_line": N // 2}
    if found is not None:
        assert len(found) == counts.get(name, 0)
        every, strange = {f"r-{n}" for n in range(N)}, set(found)
        assert strange - every == ({"nobody_asked"} if name == "stray_row" else set())
        assert max(Counter(found).values(), default=1) == (2 if name == "double_row" else 1)
    first, second = api.bill.requests(of.rows)[:2]
    assert (first.fault, second.fault, second.answered) == (name, None, True)


# --- what is refused ------------------------------------------------------------------------------

EMPTY: Any = {"custom_id": "a", "params": {}}


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [EMPTY | {"custom_id": "a b"}],
        [EMPTY | {"custom_id": "a" * 65}],
        [EMPTY, EMPTY],
        [{"custom_id": "a"}],
        [EMPTY | {"metadata": {}}],
    ],
)
def test_what_is_wrong_with_claude_s_batch_is_a_400(api: StandIn, requests: Any) -> None:
    async def work(side: OfClaude) -> None:
        with pytest.raises(anthropic.BadRequestError):
            await side.batches.create(requests=requests)
        with pytest.raises(anthropic.AuthenticationError):
            await side.client.with_options(api_key="bad-key").messages.batches.list()
        assert not (await side.batches.list()).data

    do(api, OfClaude, work)


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["{"], [1]),
        ([line("a", chat_body()), line("a", chat_body())], [2]),
        ([line("a", chat_body(), url="/v1/responses")], [1]),
        (['{"custom_id": "a"}', line("a", chat_body())], [1]),
        ([line("a", chat_body()), line("b", chat_body(model="gpt-6-sol"))], [2]),
        ([line("a", chat_body()), ""], [2]),
    ],
)
def test_a_file_that_is_wrong_fails_openai_s_batch(
    api: StandIn, lines: list[str], wrong: list[int]
) -> None:
    async def work(side: OfOpenAI) -> Any:
        return await side.batches.retrieve((await side.of(*lines)).id)

    batch = do(api, OfOpenAI, work)
    assert (batch.status, [error.line for error in batch.errors.data]) == ("failed", wrong)
    assert batch.output_file_id is None and api.bill.requests("chat_batch") == []


def test_openai_s_batch_may_fail_and_what_is_unknown_is_a_404(api: StandIn) -> None:
    api.batches.push("fail")

    async def work(side: OfOpenAI) -> str:
        for step in (side.client.files.content, side.batches.retrieve):
            with pytest.raises(openai.NotFoundError):
                await step("no-such")
        with pytest.raises(openai.BadRequestError):
            await side.of("x" * 513)
        return await side.status((await side.make(2)).id)

    assert do(api, OfOpenAI, work) == "failed"
    assert api.bill.total_usd() == 0
