"""The endpoints of batches when something is wrong, under the unmodified Anthropic SDK."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic

from tests.clients import create, with_client
from tests.stand_in import FAULTS, ROW_FAULTS, STEADY, STEADY_BATCH, Bill, Faults, StandIn
from tests.test_stand_in_batches import asked, counts, results

pytestmark = pytest.mark.process

Step = Callable[[AsyncAnthropic, str], Awaitable[Any]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


BY_NAME: dict[str, type[Exception]] = {
    "408": anthropic.RequestTimeoutError,
    "409": anthropic.ConflictError,
    "413": anthropic.ContentTooLargeError,
    "429": anthropic.RateLimitError,
    "429_bare": anthropic.RateLimitError,
    "500": anthropic.InternalServerError,
    "503": anthropic.ServiceUnavailableError,
    "504_after": anthropic.GatewayTimeoutError,
    "529": anthropic.OverloadedError,
    "rst_before": anthropic.APIConnectionError,
    "rst_after": anthropic.APIConnectionError,
    "fin_after": anthropic.APIConnectionError,
    "cut": anthropic.APIConnectionError,
    "cut_chunked": anthropic.APIConnectionError,
    "cut_unsized": json.JSONDecodeError,
    "malformed": json.JSONDecodeError,
    "empty": json.JSONDecodeError,
}
STEPS: dict[str, Step] = {
    "batch_retrieve": lambda client, id: client.messages.batches.retrieve(id),
    "batch_list": lambda client, id: client.messages.batches.list(),
    "batch_cancel": lambda client, id: client.messages.batches.cancel(id),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_fault_at_the_making_of_a_batch(api: StandIn, name: str) -> None:
    api.faults.push(name, endpoint="batch_create")
    made_all_the_same = FAULTS[name].works

    async def work(client: AsyncAnthropic) -> Exception:
        with pytest.raises(BY_NAME[name]) as caught:
            await client.messages.batches.create(requests=asked(3))
        found = (await client.messages.batches.list()).data
        assert len(found) == int(made_all_the_same)
        if found:
            assert {row.custom_id for row in await results(client, found[0].id)} == {
                "r-0",
                "r-1",
                "r-2",
            }
        return caught.value

    error = with_client(api, work)
    assert type(error) is BY_NAME[name]
    (made,) = api.bill.requests("batch_create")
    assert (made.fault, int(made.usd), made.answered) == (name, 0, FAULTS[name].problem is not None)
    assert len(api.bill.requests("batch")) == (3 if made_all_the_same else 0)
    assert bool(api.bill.total_usd()) == made_all_the_same
    if isinstance(error, anthropic.APIStatusError):
        assert error.response.headers.get("retry-after") == ("1" if name == "429" else None)


def test_every_steady_fault_was_tried() -> None:
    assert set(STEADY_BATCH) - set(BY_NAME) == {"502", "504", "html", "slow", "drip"}
    assert set(STEADY_BATCH) < set(STEADY) and not set(ROW_FAULTS) & set(FAULTS)


@pytest.mark.parametrize("endpoint", STEPS)
def test_a_fault_at_another_step_is_met_there_alone(api: StandIn, endpoint: str) -> None:
    api.batch_seconds, api.batches.polls = 60, 9

    async def work(client: AsyncAnthropic) -> None:
        id = (await client.messages.batches.create(requests=asked(1))).id
        for name in ("529", "rst_before", "malformed"):
            api.faults.push(name, endpoint=endpoint)
            await create(client, "not this one")
            with pytest.raises(BY_NAME[name]):
                await STEPS[endpoint](client, id)
        assert await STEPS[endpoint](client, id)

    with_client(api, work)
    met = [request.fault for request in api.bill.requests(endpoint)]
    assert met == ["529", "rst_before", "malformed", None]
    assert api.faults.fired == {"529": 1, "rst_before": 1, "malformed": 1}


def test_a_request_without_a_body_is_picked_by_its_path(api: StandIn) -> None:
    async def work(client: AsyncAnthropic) -> None:
        first, second = [
            (await client.messages.batches.create(requests=asked(1))).id for _ in range(2)
        ]
        api.faults.push("500", endpoint="batch_retrieve", when=lambda path: second in path)
        await client.messages.batches.retrieve(first)
        with pytest.raises(anthropic.InternalServerError):
            await client.messages.batches.retrieve(second)

    with_client(api, work)
    first, second = api.bill.requests("batch_retrieve")
    assert first.path != second.path and second.fault == "500"


def test_a_page_in_place_of_a_batch_comes_as_a_str(api: StandIn) -> None:
    api.faults.push("html", endpoint="batch_create")
    made: Any = with_client(api, lambda c: c.messages.batches.create(requests=asked(1)))
    assert isinstance(made, str) and len(api.bill.requests("batch")) == 1


def test_slow_for_longer_than_the_client_waits_still_makes_a_batch(api: StandIn) -> None:
    api.faults.push("slow", endpoint="batch_create", seconds=2.0)

    async def work(client: AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.batches.create(requests=asked(1))
        assert not (await client.messages.batches.list()).data
        api.wait_idle()
        assert len((await client.messages.batches.list()).data) == 1

    with_client(api, work, timeout=0.15)


@pytest.mark.parametrize(("retries", "batches"), [(0, 1), (2, 3)])
def test_a_lost_reply_is_one_batch_unless_the_sdk_asks_again(
    api: StandIn, retries: int, batches: int
) -> None:
    api.faults.push("rst_after", times=2, endpoint="batch_create")

    async def work(client: AsyncAnthropic) -> list[dict[str, int]]:
        making = client.with_options(max_retries=retries).messages.batches.create(requests=asked(2))
        if retries:
            await making
        else:
            with pytest.raises(anthropic.APIConnectionError):
                await making
        return [counts(batch) async for batch in client.messages.batches.list()]

    assert with_client(api, work) == [{"succeeded": 2}] * batches
    assert len(api.bill.requests("batch_create")) == batches
    twice = api.bill.billed_twice()
    assert sorted(twice.values()) == ([batches] * 2 if retries else [])


# --- results --------------------------------------------------------------------------------------

N = 9


def seen(api: StandIn, name: str) -> tuple[list[str], type[Exception] | None]:
    """The ids that a reader gets, and what ends the reading."""
    api.faults.push(name, endpoint="batch_results")

    async def work(client: AsyncAnthropic) -> tuple[list[str], type[Exception] | None]:
        batch = await client.messages.batches.create(requests=asked(N))
        found: list[str] = []
        error: type[Exception] | None = None
        try:
            async for row in await client.messages.batches.results(batch.id):
                found.append(row.custom_id)
        except Exception as raised:
            error = type(raised)
        assert len(await results(client, batch.id)) == N  # read again, all is there
        return found, error

    return with_client(api, work)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cut", httpx2.RemoteProtocolError),
        ("cut_chunked", httpx2.RemoteProtocolError),
        ("rst_after", anthropic.APIConnectionError),
        ("500", anthropic.InternalServerError),
        ("429", anthropic.RateLimitError),
        ("cut_in_line", json.JSONDecodeError),
        ("malformed_row", json.JSONDecodeError),
        ("blank_last_row", json.JSONDecodeError),
        ("cut_at_line", None),
        ("missing_row", None),
        ("double_row", None),
        ("stray_row", None),
        ("empty", None),
    ],
)
def test_results_that_are_off(api: StandIn, name: str, error: type[Exception] | None) -> None:
    found, raised = seen(api, name)
    assert raised is error
    every, tally = {f"r-{n}" for n in range(N)}, Counter(found)
    whole = {"double_row": N + 1, "stray_row": N + 1, "missing_row": N - 1, "blank_last_row": N}
    some = {"cut_at_line": N // 2, "cut_in_line": N // 2, "malformed_row": N // 2}
    if name in whole | some:
        assert len(found) == (whole | some)[name]
    elif name in ("empty", "rst_after", "500", "429"):
        assert found == []
    else:
        assert len(found) < N
    assert set(found) - every == ({"nobody_asked"} if name == "stray_row" else set())
    assert max(tally.values(), default=1) == (2 if name == "double_row" else 1)
    first, second = api.bill.requests("batch_results")
    assert (first.fault, second.fault) == (name, None) and second.answered
    assert api.bill.total_usd() == sum(part.usd for part in api.bill.requests("batch"))


def test_a_body_cut_at_a_line_ends_in_silence_and_only_the_counts_tell(api: StandIn) -> None:
    api.faults.push("cut_at_line", endpoint="batch_results")

    async def work(client: AsyncAnthropic) -> tuple[bytes, dict[str, str], int]:
        batch = await client.messages.batches.create(requests=asked(N))
        raw = await client.messages.batches.with_raw_response.results(batch.id)
        body = await raw.http_response.aread()
        ended = await client.messages.batches.retrieve(batch.id)
        return body, dict(raw.headers), ended.request_counts.succeeded

    body, headers, succeeded = with_client(api, work)
    assert body.endswith(b"\n") and body.count(b"\n") == N // 2 < succeeded == N
    assert not {"content-length", "transfer-encoding"} & set(headers)
    assert not api.bill.requests("batch_results")[0].answered


# --- mixes ----------------------------------------------------------------------------------------


def test_each_endpoint_has_a_mix_of_its_own() -> None:
    drawn = []
    for run in range(2):
        faults = Faults()
        faults.mix(1, 0.5, ["500"], endpoint="batch_list")
        faults.mix(2, 1.0, ["missing_row"], endpoint="batch_results")
        met = [faults.meet("batch_list", b"%d-%d" % (run, n)) for n in range(100)]
        drawn.append([fault.name if fault else None for fault in met])
        fault = faults.meet("batch_results", b"")
        assert fault is not None and fault.name == "missing_row"
        assert faults.meet("batch_create", b"") is faults.meet("messages", b"") is None
    # Bodies and paths have ids in them that no two runs share: the order alone counts.
    assert drawn[0] == drawn[1] and 25 < drawn[0].count("500") < 75


@pytest.mark.process
def test_a_process_of_its_own_takes_seconds_and_mixes(tmp_path: Path) -> None:
    bill = Bill(tmp_path / "bill.jsonl")
    flags = ["--bill", str(bill.path), "--batch-seconds", "60", "--part-faults", "1:1:refusal_late"]
    flags += ["--faults", "1:1:rst_after:batch_create", "--faults", "1:1:other_case"]
    command = [sys.executable, "-m", "tests.stand_in", *flags]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        remote: Any = type("Remote", (), {"url": server.stdout.readline().strip()})

        async def work(client: AsyncAnthropic) -> None:
            with pytest.raises(anthropic.APIConnectionError):
                await client.messages.batches.create(requests=asked(2))
            (batch,) = (await client.messages.batches.list()).data
            assert batch.processing_status == "in_progress"
            await create(client)

        with_client(remote, work)
        assert [part.finished for part in bill.requests("batch")] == [False, False]
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=5) == 0
    assert [part.fault for part in bill.requests("batch")] == ["refusal_late"] * 2
    assert [request.fault for request in bill.requests()] == ["other_case"]
