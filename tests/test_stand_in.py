"""The stand-in's single calls, under the unmodified SDKs: what the client sees, what is billed."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message
from openai import AsyncOpenAI

from tests.clients import chat, create, marked, text_of, with_client, with_openai
from tests.jobs import ROOT
from tests.stand_in import FAULTS, STEADY, Bill, StandIn
from tests.stand_in.faults import Faults, Problem
from tests.stand_in.schema import Misfit, check, check_strict, fill

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


def test_it_imports_nothing_of_the_product() -> None:
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests/stand_in").glob("*.py"))
    assert not re.search(r"(?m)^\s*(from|import) (runner|escalation|surelocal)\b", text)


def test_answers_by_the_oracle_and_bills_what_the_usage_says(api: StandIn) -> None:
    known, unknown = with_client(api, lambda c: asyncio.gather(create(c), create(c, "else")))
    assert json.loads(text_of(known)) == {"intent": "lost_card"}
    assert json.loads(text_of(unknown)) == {"intent": "card_arrival"}
    first = next(r for r in api.bill.requests() if r.id == known._request_id)
    assert first.text == "where is my card" and "authorization" not in first.headers
    assert first.answered and first.finished and first.status == 200 and first.fault is None
    spent = (known.usage.input_tokens * 2 + known.usage.output_tokens * 10) / Decimal(1_000_000)
    assert first.usd == spent > 0
    assert api.bill.total_usd() == sum(r.usd for r in api.bill.billed()) > first.usd
    assert api.bill.billed_twice() == {}


def test_the_same_of_openai(api: StandIn) -> None:
    known = with_openai(api, chat)
    assert known.choices[0].message.content == "lost_card" and known.usage is not None
    (request,) = api.bill.requests("chat")
    tokens = known.usage.prompt_tokens * 2 + known.usage.completion_tokens * 10
    assert request.usd == Decimal(tokens) / 1_000_000 > 0
    assert (request.text, request.id) == ("where is my card", known._request_id)


# --- the cache ------------------------------------------------------------------------------------


def split_of(message: Message) -> tuple[int, int, int, int]:
    spent, written = message.usage, message.usage.cache_creation
    assert written is not None
    short, hour = written.ephemeral_5m_input_tokens, written.ephemeral_1h_input_tokens
    assert spent.cache_creation_input_tokens == short + hour
    return spent.input_tokens, short, hour, spent.cache_read_input_tokens or 0


def test_a_prefix_is_written_once_then_read(api: StandIn) -> None:
    system = [marked("rules " * 400, "1h"), marked("examples " * 40, "5m")]
    options: dict[str, Any] = {"system": system, "output_config": {}}

    async def work(client: AsyncAnthropic) -> list[tuple[int, int, int, int]]:
        found = [split_of(await create(client, "abcd", **options)) for _ in range(2)]
        found.append(split_of(await create(client, "abcd", **options, model="claude-haiku-4-5")))
        return found

    first, again, below_minimum = with_client(api, work)
    assert (first, again, below_minimum) == ((1, 90, 600, 0), (1, 0, 0, 690), (691, 0, 0, 0))
    tokens = [(2 * 1 + Decimal("2.5") * 90 + 4 * 600), (2 * 1 + Decimal("0.1") * 690)]
    for request, prompt in zip(api.bill.requests(), tokens, strict=False):
        assert request.usage is not None
        assert request.usd == (prompt + 10 * request.usage["output_tokens"]) / 1_000_000


def test_requests_side_by_side_all_write(api: StandIn) -> None:
    api.latency = 0.1
    system = [marked("rules " * 400, "5m")]

    async def work(client: AsyncAnthropic) -> list[Message]:
        return await asyncio.gather(*(create(client, str(n), system=system) for n in range(3)))

    assert [split_of(message)[3] for message in with_client(api, work)] == [0, 0, 0]
    assert api.max_in_flight == 3


# --- faults ---------------------------------------------------------------------------------------

STATUSES = [name for name, fault in FAULTS.items() if fault.problem]
WIRE: dict[str, type[Exception]] = {
    **dict.fromkeys(("rst_before", "rst_after"), httpx2.ReadError),
    **dict.fromkeys(("fin_after", "cut", "cut_chunked"), httpx2.RemoteProtocolError),
    **dict.fromkeys(("cut_unsized", "malformed", "empty"), json.JSONDecodeError),
}
STOPS = {
    "refusal": "refusal", "refusal_late": "refusal", "max_tokens": "max_tokens",
    "pause_turn": "pause_turn", "context_window": "model_context_window_exceeded",
}  # fmt: skip
SOUND = {"html", "no_usage", "off_enum", "other_case", "slow", "drip"}


def test_every_fault_is_tried_here() -> None:
    assert set(FAULTS) == {*STATUSES, *WIRE, *STOPS, *SOUND}


@pytest.mark.parametrize("name", [*STATUSES, *WIRE])
def test_a_fault_is_met_once_on_the_wire_and_on_the_bill(api: StandIn, name: str) -> None:
    api.faults.push(name)

    async def work(client: AsyncAnthropic) -> Exception:
        with pytest.raises(Exception) as caught:
            await create(client)
        await create(client)
        return caught.value

    error = with_client(api, work)
    failed, sound = api.bill.requests()
    billed = name.endswith("_after") or name in set(WIRE) - {"rst_before"}
    assert (failed.fault, bool(failed.usd)) == (name, billed)
    assert sound.fault is None and sound.usd > 0 and sound.answered
    assert len(api.bill.billed_twice()) == int(billed)
    if isinstance(error, anthropic.APIStatusError):
        assert error.status_code == failed.status == int(name[:3])
        assert (error.error_code is not None) == (name == "429_spend")
        assert error.request_id == failed.id
        assert error.response.headers.get("retry-after") == ("1" if name == "429" else None)
        assert ("usage limits" in (error.api_message or "")) == (name == "400_usage_limits")
    else:
        assert type(error.__cause__ or error) is WIRE[name] and not failed.answered


@pytest.mark.parametrize("name", STOPS)
def test_stops_are_ordinary_messages(api: StandIn, name: str) -> None:
    api.faults.push(name)
    message = with_client(api, create)
    assert message.stop_reason == STOPS[name]
    assert (message.stop_details is not None) == (message.stop_reason == "refusal")
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    if name == "max_tokens":
        assert message.usage.output_tokens == 100  # the worst that could have been reserved
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(message))
    (request,) = api.bill.requests()
    assert request.answered and bool(request.usd) == (name != "refusal")


def test_answers_that_are_off_are_billed(api: StandIn) -> None:
    api.faults.push("off_enum", "other_case", "no_usage", "html")

    async def work(client: AsyncAnthropic) -> list[Any]:
        return [await create(client) for _ in range(4)]

    off, case, bare, page = with_client(api, work)
    assert json.loads(text_of(off)) == {"intent": "lost_card_or_so"}
    assert json.loads(text_of(case)) == {"intent": "LOST_CARD"}
    assert bare.usage is None and isinstance(page, str)
    assert all(request.usd > 0 for request in api.bill.requests())


def test_slow_and_dripping_replies_are_billed_after_the_client_has_left(api: StandIn) -> None:
    api.faults.push("slow", "drip", seconds=1.0)

    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APITimeoutError):
            await create(client.with_options(timeout=0.1))
        assert [request.finished for request in api.bill.requests()] == [False]
        with pytest.raises(TimeoutError):  # the SDK's own timeout begins anew with each drop
            await asyncio.wait_for(create(client.with_options(timeout=0.5)), 0.7)

    with_client(api, work)
    api.wait_idle()
    requests = api.bill.requests()
    assert [(r.finished, r.usd > 0, r.answered) for r in requests] == [(True, True, False)] * 2


def test_retries_are_paid_each_time_and_retry_after_is_told(api: StandIn) -> None:
    api.faults.push("rst_after")
    api.faults.push("429", retry_after=0.2)
    started = time.monotonic()
    with_client(api, create, max_retries=2)
    assert time.monotonic() - started >= 0.2
    assert [bool(request.usd) for request in api.bill.requests()] == [True, False, True]
    assert list(api.bill.billed_twice().values()) == [2]


def test_a_fault_can_be_meant_for_one_request_or_another_endpoint(api: StandIn) -> None:
    api.faults.push("529", when=lambda body: "T-2" in body)
    api.faults.push("500", endpoint="chat")

    async def work(client: AsyncAnthropic) -> None:
        await create(client, "T-1")
        with pytest.raises(anthropic.OverloadedError):
            await create(client, "T-2")

    with_client(api, work)
    with pytest.raises(openai.InternalServerError):
        with_openai(api, chat)
    assert api.faults.waiting() == 0 and api.faults.fired == {"529": 1, "500": 1}


def test_a_mix_depends_on_the_bodies_not_on_their_order() -> None:
    bodies, drawn = [f"body {n}" for n in range(2000)], []
    for order in (bodies, bodies[::-1]):
        faults = Faults()
        faults.mix(7, 0.3, STEADY, endpoint="messages", seconds=0.01)
        met = {body: faults.meet("messages", body) for body in order}
        drawn.append({body: fault.name for body, fault in met.items() if fault})
        assert all(fault.seconds <= 0.01 for fault in met.values() if fault)
    assert drawn[0] == drawn[1] and 500 < len(drawn[0]) < 700
    assert set(drawn[0].values()) == set(STEADY)
    assert faults.meet("batch_create", bodies[0]) is None


# --- what is refused ------------------------------------------------------------------------------

FORMAT_OF_ANY = {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_body": {"temperature": 0}},
        {"extra_body": {"idempotency_key": "x"}},
        {"extra_body": {"stream": True}},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]},
        {"system": [{"type": "image"}]},
        {"system": [marked("a", "5m"), marked("b", "1h")]},
        {"system": [marked("a", "5m")] * 5},
        {"system": [marked("a", "2h")]},
        {"output_config": {"effort": "huge"}},
        {"output_config": FORMAT_OF_ANY},
    ],
)
def test_a_bad_request_is_a_400_that_uses_up_no_fault(api: StandIn, changes: Any) -> None:
    api.faults.push("529")
    with pytest.raises(anthropic.BadRequestError):
        with_client(api, lambda client: create(client, **changes))
    assert api.bill.total_usd() == 0 and api.faults.waiting() == 1


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0}, {"messages": []}, {"max_tokens": 5}, {"stop": "x"}],
)
def test_the_same_of_openai_s(api: StandIn, changes: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        with_openai(api, lambda client: chat(client, **changes))
    assert api.bill.total_usd() == 0


def test_unknown_keys_models_and_paths(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.AuthenticationError):
            await create(client.with_options(api_key="bad-key"))
        with pytest.raises(anthropic.NotFoundError, match="claude-9"):
            await create(client, model="claude-9")
        with pytest.raises(anthropic.NotFoundError):
            await client.get("/v1/nothing", cast_to=object)

    async def of_openai(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError):
            await chat(client.with_options(api_key="bad-key"))
        with pytest.raises(openai.NotFoundError):
            await chat(client, model="gpt-1")

    with_client(api, work)
    with_openai(api, of_openai)
    assert [r.status for r in api.bill.requests(None)] == [401, 404, 404, 401, 404]
    assert api.bill.total_usd() == 0


def closed(**properties: Any) -> dict[str, Any]:
    names = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **names}


def test_schemas_are_filled_and_checked() -> None:
    shape = closed(
        kind={"$ref": "#/$defs/kind"},
        score={"type": ["number", "null"]},
        tags={"type": "array", "items": {"type": "string"}},
    ) | {"$defs": {"kind": {"type": "string", "enum": ["a", "b"]}}}
    check(shape)
    check_strict(shape)
    assert fill(shape) == {"kind": "a", "score": 0, "tags": []}
    assert fill(shape, {"kind": "b"})["kind"] == "b"
    for wrong in ({"kind": "c"}, {"score": "x"}, {"tags": [1]}, {"more": 1}, {"score": True}):
        with pytest.raises(Misfit):
            fill(shape, wrong)


LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
WIDE = closed(**{str(n): {"type": "string"} for n in range(25)}) | {"required": []}


@pytest.mark.parametrize(
    ("judge", "shape"),
    [
        (check, LOOP),
        (check, WIDE),
        (check, closed(n={"type": "integer", "minimum": 0})),
        (check, closed(n={"$ref": "#/nowhere"})),
        (check_strict, WIDE),
        (check_strict, {"type": "array", "items": {"type": "string"}}),
        (check_strict, closed(n={"enum": ["a"]})),
        (check_strict, closed(n={"type": "string", "minLength": 1})),
    ],
)
def test_a_schema_that_an_api_would_not_take_is_refused(judge: Any, shape: Any) -> None:
    with pytest.raises(Problem):
        judge(shape)


def test_an_oracle_that_breaks_the_schema_fails_the_test(tmp_path: Path) -> None:
    with (
        pytest.raises(Misfit),
        StandIn(tmp_path, oracle=lambda text: {"intent": text}) as api,
        pytest.raises(anthropic.InternalServerError),
    ):
        with_client(api, create)
    assert api.bill.total_usd() == 0


# --- processes ------------------------------------------------------------------------------------


def test_stopping_bills_what_has_begun(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("slow", seconds=60)
        with pytest.raises(anthropic.APITimeoutError):
            with_client(api, create, timeout=0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert api.bill.total_usd() > 0


def test_a_process_of_its_own_has_faults_and_a_bill(tmp_path: Path) -> None:
    bill = Bill(tmp_path / "bill.jsonl")
    command = [sys.executable, "-m", "tests.stand_in", "--bill", str(bill.path)]
    command += ["--faults", "1:1:other_case"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        remote: Any = type("Remote", (), {"url": server.stdout.readline().strip()})
        assert json.loads(text_of(with_client(remote, create))) == {"intent": "CARD_ARRIVAL"}
        (request,) = bill.requests()
        assert (request.fault, request.answered) == ("other_case", True)
        assert request.usd == bill.total_usd() > 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=5) == 0
