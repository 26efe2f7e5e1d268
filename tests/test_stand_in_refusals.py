"""What the stand-in turns away: bad requests, unknown names, schemas that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from tests.clients import create, marked, text_of, with_client
from tests.stand_in import StandIn
from tests.stand_in.problems import Problem
from tests.stand_in.schema import Misfit, check, fill

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


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


@pytest.mark.process
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
