"""The stand-in under the unmodified Anthropic SDK: what the client sees and what is billed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message

from tests.clients import FORMAT, create, marked, text_of, with_client
from tests.stand_in import Bill, StandIn, price_usd

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


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


# --- the cache ------------------------------------------------------------------------------------


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


# --- many at once, and processes ------------------------------------------------------------------


def test_many_at_once(api: StandIn) -> None:
    api.latency = 0.5

    async def work(client: AsyncAnthropic) -> list[Message]:
        return await asyncio.gather(*(create(client, f"T-{n}") for n in range(64)))

    with_client(api, work)
    assert api.max_in_flight == 64
    assert len({request.sha256 for request in api.bill.billed()}) == 64


@pytest.mark.process
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


@pytest.mark.process
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
