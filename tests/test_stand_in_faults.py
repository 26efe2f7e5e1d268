"""The stand-in when something is wrong: its faults, on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from tests.clients import create, text_of, with_client
from tests.stand_in import FAULTS, STEADY, Faults, StandIn

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


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
