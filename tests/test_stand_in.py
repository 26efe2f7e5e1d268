"""The stand-in under the unmodified Anthropic SDK: what the client sees and what is billed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import Message

from tests.stand_in import FAULTS, STEADY, Bill, Faults, StandIn, price_usd
from tests.stand_in.problems import Problem
from tests.stand_in.schema import Misfit, check, fill

T = TypeVar("T")
LABELS = ["card_arrival", "lost_card", "exchange_rate"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"type": "string", "enum": LABELS}},
    "required": ["intent"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {"format": {"type": "json_schema", "schema": SCHEMA}}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


def with_client(api: StandIn, work: Callable[[AsyncAnthropic], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        settings = {"api_key": "k", "max_retries": 0, "timeout": 5.0, **options}
        # Without certificates: loading them is most of what a client costs here.
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncAnthropic(
            base_url=api.url, open_telemetry=False, http_client=http, **settings
        ) as client:
            return await work(client)

    return asyncio.run(main())


async def create(client: AsyncAnthropic, text: str = "where is my card", **changes: Any) -> Message:
    request: dict[str, Any] = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "output_config": FORMAT,
        **changes,
    }
    message: Message = await client.messages.create(**request)
    return message


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


# --- answers and money ---------------------------------------------------------------------------


def test_answers_by_the_oracle_and_bills_what_the_usage_says(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> tuple[Message, Message]:
        known = await create(client, extra_headers={"x-stand-in-marker": "T-1"})
        return known, await create(client, "something else", metadata={"user_id": "T-2"})

    known, unknown = with_client(api, work)
    assert json.loads(text_of(known)) == {"intent": "lost_card"}
    assert json.loads(text_of(unknown)) == {"intent": "card_arrival"}
    assert known.stop_reason == "end_turn"
    first, second = api.bill.requests()
    assert (first.marker, second.marker) == ("T-1", "T-2")
    assert first.id == known._request_id
    assert first.text == "where is my card"
    assert first.answered and first.finished and first.status == 200 and first.fault is None
    assert first.body["messages"][0]["content"] == "where is my card"
    assert "authorization" not in first.headers
    spent = (known.usage.input_tokens * 2 + known.usage.output_tokens * 10) / Decimal(1_000_000)
    assert first.usd == spent > 0
    assert api.bill.total_usd() == first.usd + second.usd
    assert api.bill.billed_twice() == {}


def test_the_raw_reply_has_the_headers_of_the_real_one(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        raw = await client.messages.with_raw_response.create(
            model="claude-haiku-4-5",
            max_tokens=10,
            messages=[{"role": "user", "content": "hello"}],
        )
        assert raw.headers["content-type"] == "application/json"
        assert raw.headers["request-id"] == raw.request_id
        for what in ("requests", "tokens", "input-tokens", "output-tokens"):
            for field in ("limit", "remaining", "reset"):
                assert f"anthropic-ratelimit-{what}-{field}" in raw.headers
        message = await raw.parse()
        assert text_of(message).startswith("An answer to ")
        assert message.usage.service_tier == "standard"
        assert message.usage.inference_geo == "global"

    with_client(api, work)


def usage(fresh: int, out: int, short: int = 0, hour: int = 0, read: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "output_tokens": out,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": short,
            "ephemeral_1h_input_tokens": hour,
        },
    }


@pytest.mark.parametrize(
    ("model", "tokens", "usd"),
    [
        ("claude-haiku-4-5", usage(1_000_000, 0), "1"),
        ("claude-haiku-4-5-20251001", usage(0, 1_000_000), "5"),
        ("claude-sonnet-5-5", usage(1000, 100, 200, 300, 400), "0.00474"),
        ("claude-opus-5-5", usage(1, 1, 1, 1, 1), "0.0000372"),
        ("claude-haiku-5-5", usage(100_000, 10), "0.010005"),
        ("claude-haiku-5-5", usage(100_001, 10), "0.0500255"),
        ("claude-haiku-5-5", usage(1, 0, 0, 0, 100_000), "0.0050005"),
        ("claude-sonnet-5-5", {**usage(1000, 100), "service_tier": "batch"}, "0.0015"),
    ],
)
def test_prices_are_exact(model: str, tokens: dict[str, Any], usd: str) -> None:
    assert price_usd(model, tokens) == Decimal(usd)


def test_counting_agrees_with_what_is_charged_unless_told_otherwise(api: StandIn) -> None:
    ask: dict[str, Any] = {
        "model": "claude-sonnet-5-5",
        "messages": [{"role": "user", "content": "grüße " * 50}],
        "system": [{"type": "text", "text": "Be brief."}],
        "output_config": FORMAT,
    }

    async def work(client: AsyncAnthropic) -> tuple[int, int, int]:
        counted = (await client.messages.count_tokens(**ask)).input_tokens
        charged = (await create(client, **ask)).usage.input_tokens
        api.claude.count_factor = 0.5
        return counted, charged, (await client.messages.count_tokens(**ask)).input_tokens

    counted, charged, low = with_client(api, work)
    assert counted == charged > low
    assert [request.usd for request in api.bill.requests("count_tokens")] == [0, 0]


# --- faults --------------------------------------------------------------------------------------

BY_STATUS: list[tuple[str, type[anthropic.APIStatusError], int, bool]] = [
    ("400_usage_limits", anthropic.BadRequestError, 400, False),
    ("401", anthropic.AuthenticationError, 401, False),
    ("402", anthropic.PaymentRequiredError, 402, False),
    ("403", anthropic.PermissionDeniedError, 403, False),
    ("408", anthropic.RequestTimeoutError, 408, False),
    ("409", anthropic.ConflictError, 409, False),
    ("413", anthropic.ContentTooLargeError, 413, False),
    ("429", anthropic.RateLimitError, 429, False),
    ("429_bare", anthropic.RateLimitError, 429, False),
    ("429_spend", anthropic.EnforcedSpendLimitReachedError, 429, False),
    ("500", anthropic.InternalServerError, 500, False),
    ("502", anthropic.InternalServerError, 502, False),
    ("503", anthropic.ServiceUnavailableError, 503, False),
    ("504", anthropic.GatewayTimeoutError, 504, False),
    ("504_after", anthropic.GatewayTimeoutError, 504, True),
    ("529", anthropic.OverloadedError, 529, False),
]
BY_WIRE: list[tuple[str, type[Exception], bool]] = [
    ("rst_before", anthropic.APIConnectionError, False),
    ("rst_after", anthropic.APIConnectionError, True),
    ("fin_after", anthropic.APIConnectionError, True),
    ("cut", anthropic.APIConnectionError, True),
    ("cut_chunked", anthropic.APIConnectionError, True),
    ("cut_unsized", json.JSONDecodeError, True),
    ("malformed", json.JSONDecodeError, True),
    ("empty", json.JSONDecodeError, True),
]
BY_STOP: list[tuple[str, str, bool]] = [
    ("refusal", "refusal", False),
    ("refusal_late", "refusal", True),
    ("max_tokens", "max_tokens", True),
    ("pause_turn", "pause_turn", True),
    ("context_window", "model_context_window_exceeded", True),
]


@pytest.mark.parametrize(("name", "kind", "status", "billed"), BY_STATUS)
def test_status_faults(
    api: StandIn, name: str, kind: type[anthropic.APIStatusError], status: int, billed: bool
) -> None:
    api.faults.push(name)

    async def work(client: AsyncAnthropic) -> anthropic.APIStatusError:
        with pytest.raises(kind) as caught:
            await create(client)
        await create(client)  # a fault is met once
        return caught.value

    error = with_client(api, work)
    assert type(error) is kind
    assert error.status_code == status
    failed, sound = api.bill.requests()
    assert (failed.fault, failed.status, bool(failed.usd)) == (name, status, billed)
    assert error.request_id == failed.id
    assert error.type == FAULTS[name].problem.type  # type: ignore[union-attr]
    assert sound.fault is None and sound.usd > 0
    code = "enforced_spend_limit_reached" if name == "429_spend" else None
    assert error.error_code == code
    assert error.response.headers.get("retry-after") == ("1" if name == "429" else None)
    assert ("usage limits" in (error.api_message or "")) == (name == "400_usage_limits")


@pytest.mark.parametrize(("name", "kind", "billed"), BY_WIRE)
def test_wire_faults(api: StandIn, name: str, kind: type[Exception], billed: bool) -> None:
    api.faults.push(name)

    async def work(client: AsyncAnthropic) -> Exception:
        with pytest.raises(kind) as caught:
            await create(client)
        await create(client)
        return caught.value

    error = with_client(api, work)
    assert type(error) is kind
    if kind is anthropic.APIConnectionError:
        below = httpx2.ReadError if name.startswith("rst") else httpx2.RemoteProtocolError
        assert type(error.__cause__) is below
    failed, sound = api.bill.requests()
    assert (failed.fault, bool(failed.usd), failed.answered) == (name, billed, False)
    assert sound.answered
    assert len(api.bill.billed_twice()) == int(billed)


@pytest.mark.parametrize(("name", "stop", "billed"), BY_STOP)
def test_stops_are_ordinary_messages(api: StandIn, name: str, stop: str, billed: bool) -> None:
    api.faults.push(name)
    message = with_client(api, create)
    assert message.stop_reason == stop
    assert (message.stop_details is not None) == (stop == "refusal")
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    if name == "max_tokens":
        assert message.usage.output_tokens == 100  # the worst that could have been reserved
    with pytest.raises(json.JSONDecodeError):
        json.loads(text_of(message))
    (request,) = api.bill.requests()
    assert request.answered and bool(request.usd) == billed


def test_every_fault_is_tried_here() -> None:
    tried = {row[0] for table in (BY_STATUS, BY_WIRE, BY_STOP) for row in table}
    assert set(FAULTS) - tried == {
        "html", "no_usage", "off_enum", "other_case", "slow", "drip"
    }  # fmt: skip


def test_a_page_in_place_of_json_comes_back_as_a_string(api: StandIn) -> None:
    api.faults.push("html")
    assert isinstance(with_client(api, create), str)
    assert api.bill.total_usd() > 0


def test_a_message_can_come_without_usage(api: StandIn) -> None:
    api.faults.push("no_usage")
    assert with_client(api, create).usage is None
    assert api.bill.total_usd() > 0


@pytest.mark.parametrize(
    ("name", "label"), [("off_enum", "lost_card_or_so"), ("other_case", "LOST_CARD")]
)
def test_answers_outside_the_enum(api: StandIn, name: str, label: str) -> None:
    api.faults.push(name)
    message = with_client(api, create)
    assert (message.stop_reason, json.loads(text_of(message))) == ("end_turn", {"intent": label})


def test_a_slow_answer_is_billed_after_the_client_has_given_up(api: StandIn) -> None:
    api.faults.push("slow", times=2, seconds=1.0)

    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APITimeoutError):
            await create(client.with_options(timeout=0.1))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(create(client), 0.1)

    with_client(api, work)
    assert [request.finished for request in api.bill.requests()] == [False, False]
    api.wait_idle()
    requests = api.bill.requests()
    assert all(r.finished and r.usd > 0 and not r.answered for r in requests)
    assert len(requests) == 2


def test_a_dripping_body_outlives_the_timeout_of_the_sdk(api: StandIn) -> None:
    api.faults.push("drip", times=2, seconds=1.0)

    async def work(client: AsyncAnthropic) -> None:
        await create(client.with_options(timeout=0.5))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(create(client), 0.5)

    with_client(api, work)
    api.wait_idle()
    whole, left = api.bill.requests()
    assert whole.answered and not left.answered
    assert whole.usd == left.usd > 0


def test_the_retries_of_the_sdk_are_paid_each_time(api: StandIn) -> None:
    api.faults.push("rst_after", times=2)
    with_client(api, create, max_retries=2)
    assert [bool(request.usd) for request in api.bill.requests()] == [True, True, True]
    assert list(api.bill.billed_twice().values()) == [3]


def test_retry_after_is_obeyed(api: StandIn) -> None:
    api.faults.push("429", retry_after=0.2)
    started = time.monotonic()
    with_client(api, create, max_retries=1)
    assert 0.2 <= time.monotonic() - started < 2
    assert [bool(request.usd) for request in api.bill.requests()] == [False, True]


def test_a_fault_can_be_meant_for_one_request_or_another_endpoint(api: StandIn) -> None:
    api.faults.push("529", when=lambda body: "T-2" in body)
    api.faults.push("500", endpoint="count_tokens")

    async def work(client: AsyncAnthropic) -> None:
        await create(client, "T-1")
        with pytest.raises(anthropic.OverloadedError):
            await create(client, "T-2")
        with pytest.raises(anthropic.InternalServerError):
            await client.messages.count_tokens(
                model="claude-sonnet-5-5", messages=[{"role": "user", "content": "x"}]
            )

    with_client(api, work)
    assert api.faults.waiting() == 0
    assert api.faults.fired == {"529": 1, "500": 1}


def test_the_mix_depends_on_the_bodies_not_on_their_order() -> None:
    bodies = [b"body %d" % n for n in range(2000)]
    drawn: list[dict[bytes, str]] = []
    for order in (bodies, bodies[::-1]):
        faults = Faults()
        faults.mix(7, 0.3, seconds=0.01)
        met = {body: faults.meet("messages", body) for body in order}
        drawn.append({body: fault.name for body, fault in met.items() if fault})
    assert drawn[0] == drawn[1]
    assert 500 < len(drawn[0]) < 700
    assert set(drawn[0].values()) == set(STEADY)
    assert faults.meet("count_tokens", bodies[0]) is None
    with pytest.raises(KeyError):
        faults.mix(1, {"no such": 0.5})
    with pytest.raises(TypeError):
        faults.mix(1, 0.5, second=1)


# --- the cache -----------------------------------------------------------------------------------


def marked(text: str, ttl: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def split_of(message: Message) -> tuple[int, int, int, int]:
    spent = message.usage
    assert spent.cache_creation is not None
    written = spent.cache_creation
    assert spent.cache_creation_input_tokens == (
        written.ephemeral_5m_input_tokens + written.ephemeral_1h_input_tokens
    )
    return (
        spent.input_tokens,
        written.ephemeral_5m_input_tokens,
        written.ephemeral_1h_input_tokens,
        spent.cache_read_input_tokens or 0,
    )


def test_a_prefix_is_written_once_then_read(api: StandIn) -> None:
    system = [marked("rules " * 400, "1h"), marked("examples " * 40, "5m")]
    options: dict[str, Any] = {"system": system, "output_config": {}}

    async def work(client: AsyncAnthropic) -> list[tuple[int, int, int, int]]:
        found = [split_of(await create(client, "abcd", **options)) for _ in range(2)]
        now = time.monotonic()
        api.claude.cache.clock = lambda: now + 1000
        found.append(split_of(await create(client, "abcd", **options)))
        found.append(split_of(await create(client, "abcd", **options, model="claude-haiku-4-5")))
        return found

    first, again, after_5m, below_minimum = with_client(api, work)
    assert first == (1, 90, 600, 0)
    assert again == (1, 0, 0, 690)
    assert after_5m == (1, 90, 0, 600)
    assert below_minimum == (691, 0, 0, 0)
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


# --- what is turned away -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_body": {"temperature": 0}}, "temperature: Extra inputs"),
        ({"extra_body": {"top_p": 1}}, "top_p: Extra inputs"),
        ({"extra_body": {"idempotency_key": "x"}}, "idempotency_key: Extra inputs"),
        ({"extra_body": {"stream": True}}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
        ({"messages": [{"role": "system", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}]},
            "prefill",
        ),
        ({"system": [{"type": "image"}]}, "only text"),
        ({"system": [marked("a", "5m"), marked("b", "1h")]}, "must not come after"),
        ({"system": [marked("a", "5m")] * 5}, "maximum of 4"),
        ({"system": [marked("a", "2h")]}, "cache_control"),
        ({"tools": []}, "not simulated"),
        ({"output_config": {"effort": "huge"}}, "effort"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            "additionalProperties",
        ),
    ],
)
def test_bad_requests(api: StandIn, changes: dict[str, Any], words: str) -> None:
    api.faults.push("529")

    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await create(client, **changes)
        assert words in (caught.value.api_message or "")

    with_client(api, work)
    assert api.bill.total_usd() == 0
    assert api.faults.waiting() == 1


def test_unknown_keys_models_and_paths(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.AuthenticationError):
            await create(client.with_options(api_key="bad-key"))
        with pytest.raises(anthropic.NotFoundError, match="claude-9"):
            await create(client, model="claude-9")
        with pytest.raises(anthropic.NotFoundError):
            await client.get("/v1/nothing", cast_to=object)
        with pytest.raises(TypeError):
            await create(client, temperature=0)

    with_client(api, work)
    assert [r.status for r in api.bill.requests(None)] == [401, 404, 404]
    assert api.bill.total_usd() == 0


def test_schemas_are_filled_and_checked() -> None:
    shape = {
        "type": "object",
        "properties": {
            "kind": {"$ref": "#/$defs/kind"},
            "score": {"type": ["number", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
            "fixed": {"const": 3},
        },
        "required": ["kind", "score", "tags", "fixed"],
        "additionalProperties": False,
        "$defs": {"kind": {"enum": ["a", "b"]}},
    }
    check(shape)
    assert fill(shape) == {"kind": "a", "score": 0, "tags": [], "fixed": 3}
    assert fill(shape, {"kind": "b", "note": "x"})["note"] == "x"
    for wrong in ({"kind": "c"}, {"score": "x"}, {"tags": [1]}, {"more": 1}, {"score": True}):
        with pytest.raises(Misfit):
            fill(shape, wrong)
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    wide = {
        "type": "object",
        "properties": {str(n): {"type": "string"} for n in range(25)},
        "additionalProperties": False,
    }
    for refused in (loop, wide, {"type": "integer", "minimum": 0}, {"$ref": "#/nowhere"}):
        with pytest.raises(Problem):
            check(refused)


def test_an_oracle_that_breaks_the_schema_fails_the_test(tmp_path: Path) -> None:
    with (
        pytest.raises(Misfit),
        StandIn(tmp_path, oracle=lambda text: {"intent": text}) as api,
        pytest.raises(anthropic.InternalServerError),
    ):
        with_client(api, create)
    assert api.bill.total_usd() == 0


def test_a_short_limit_and_stop_sequences_end_the_text(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        short = await create(client, max_tokens=3)
        assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
        stopped = await create(client, stop_sequences=["card", "lost"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "lost")
        assert text_of(stopped) == '{"intent": "'

    with_client(api, work)


# --- many at once, and processes -----------------------------------------------------------------


def test_many_at_once(api: StandIn) -> None:
    api.latency = 0.5

    async def work(client: AsyncAnthropic) -> list[Message]:
        return await asyncio.gather(*(create(client, f"T-{n}") for n in range(64)))

    with_client(api, work)
    assert api.max_in_flight == 64
    assert len({request.sha256 for request in api.bill.billed()}) == 64


def test_stopping_bills_what_has_begun(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("slow", seconds=60)

        async def work(client: AsyncAnthropic) -> None:
            with pytest.raises(anthropic.APITimeoutError):
                await create(client)

        with_client(api, work, timeout=0.1)
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert api.bill.total_usd() > 0


CLIENT = """
import http.client, json, sys
body = json.dumps({"model": "claude-haiku-4-5", "max_tokens": 9,
                   "messages": [{"role": "user", "content": sys.argv[2]}]})
server = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"))
server.request("POST", "/v1/messages", body, {"authorization": "Bearer k",
               "anthropic-version": "2026-10-21"})
print("sent", flush=True)
server.getresponse().read()
"""


def test_the_bill_outlives_a_killed_client_and_a_process_of_its_own(tmp_path: Path) -> None:
    bill, oracle = Bill(tmp_path / "bill.jsonl"), tmp_path / "oracle.json"
    oracle.write_text('{"T-1": "yes"}')
    flags = ["--bill", str(bill.path), "--oracle", str(oracle), "--latency", "30"]
    command = [sys.executable, "-m", "tests.stand_in", *flags, "--faults", "1:1:other_case"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        ask = [sys.executable, "-c", CLIENT, url, "T-1"]
        with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None and client.stdout.readline() == "sent\n"
            time.sleep(0.1)
            client.send_signal(signal.SIGKILL)
        (request,) = bill.requests()
        assert not request.finished and bill.total_usd() == 0
        server.terminate()
        assert server.wait(timeout=5) == 0
    (request,) = bill.requests()
    assert request.finished and not request.answered
    assert (request.fault, request.text) == ("other_case", "T-1")
    assert request.usd == bill.total_usd() > 0
