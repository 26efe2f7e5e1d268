"""OpenAI's API and its like: the real SDK and courier against a stand-in's every fault."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from escalation.providers.openai import OpenAI, OpenAIWire
from escalation.providers.openai_schema import strict
from escalation.providers.protocol import Reply, bare
from escalation.providers.request_bytes import body_bytes
from runner.errors import UsageError
from runner.job import Job, digest
from runner.job.escalation import Escalation
from runner.job.providers import endpoint_at
from runner.types import Constraint, Message, Prompt, Usage
from tests.fakes import JOB
from tests.jobs import (
    KEY,
    SCHEMA,
    Ran,
    marked,
    query,
    records,
    rows_of,
    run,
    spent_usd,
    start,
    wait_until,
    write_job,
)
from tests.stand_in import FAULTS, StandIn
from tests.stand_in.faults import Problem
from tests.test_escalation import INVALID, LOST, REFUSED, RETRIED

GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai/"
HALTS = ["401", "402", "403", "429_spend"]
REJECTED = [*REFUSED, "400_usage_limits"]
UNBILLED = {"500", "502", "504", "rst_before"}
PARTS: dict[str, Any] = {"provider": "openai", "model": "gpt-6.1-sol", "concurrency": 4}
PATHS = {"openai": "/v1", "gemini": "/v1beta/openai/", "local": "/v1"}
MODELS = {"openai": "gpt-6.1-sol", "gemini": "gemini-3.8-flash", "local": "gpt-6.1-sol"}
LABELS = Prompt((Message("user", "where is my card"),), Constraint(labels=("yes", "lost_card")))
NO_PIECE_OF_THE_KEY = ("key-that", "down", KEY)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle={"where is my card": "lost_card"}) as server:
        yield server


def closed_job(
    folder: Path, api: StandIn, rows: Any, escalation: dict[str, Any] | None = None, **keys: Any
) -> Path:
    settings = {**PARTS, "api_key_env": "OPENAI_API_KEY", **(escalation or {})}
    return write_job(folder, f"{api.url}/v1", rows, settings, **keys)


def settings(whose: str, api: StandIn, **keys: Any) -> Escalation:
    given = {
        "provider": "local" if whose == "local" else "openai",
        "model": MODELS[whose],
        "base_url": f"{api.url}{PATHS[whose]}",
        "api_key_env": "OPENAI_API_KEY",
        **keys,
    }
    return Escalation.model_validate(given)


def sent(given: Escalation, *prompts: Prompt, timeout_s: float = 5.0) -> list[Reply]:
    """The replies to these prompts, one after the other, through the real SDK in this process."""

    async def main() -> list[Reply]:
        wire = OpenAIWire(given.base_url, given.api_key_env, timeout_s, 2)
        try:
            return [await wire.send(OpenAI(given).request(prompt)) for prompt in prompts]
        finally:
            await wire.aclose()

    return asyncio.run(main())


# --- what a job may leave out ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "model", "key_env"),
    [
        ({}, "claude-sonnet-5-5", "ANTHROPIC_API_KEY"),
        ({"base_url": "http://proxy"}, "claude-sonnet-5-5", "ANTHROPIC_API_KEY"),
        ({"provider": "openai"}, "gpt-6.1-sol", "OPENAI_API_KEY"),
        (
            {"provider": "openai", "base_url": "https://eu.api.openai.com/v1"},
            "gpt-6.1-sol",
            "OPENAI_API_KEY",
        ),
        ({"provider": "openai", "base_url": GEMINI}, "gemini-3.8-flash", "GEMINI_API_KEY"),
        ({"provider": "openai", "model": "o", "api_key_env": "K"}, "o", "K"),
        ({"provider": "local", "base_url": "http://big:8000/v1", "model": "Q"}, "Q", None),
    ],
)
def test_what_need_not_be_said(given: dict[str, Any], model: str, key_env: str | None) -> None:
    made = Escalation.model_validate(given)
    assert (made.model, made.api_key_env) == (model, key_env)
    assert Escalation.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"provider": "openai", "base_url": "https://else.where/v1", "model": "m"}, "api_key_env"),
        ({"provider": "openai", "base_url": "https://api.openai.com.evil/v1"}, "api_key_env"),
        ({"provider": "openai", "base_url": "https://else.where/v1"}, "model"),
        ({"provider": "openai", "api_key_env": None}, "`api_key_env` names"),
        ({"provider": "local", "base_url": "http://big:8000/v1"}, "model"),
        ({"provider": "local", "model": "m"}, "address of your own server"),
        # Free of charge it is not there.
        ({"provider": "local", "model": "gpt-6-luna", "base_url": GEMINI}, "your own server"),
        (
            {"provider": "local", "model": "m", "base_url": "https://API.openai.com./v1"},
            "your own server",
        ),
        ({"provider": "open ai"}, "provider"),
        ({"provider": ["openai"]}, "provider"),
    ],
)
def test_what_must_be_said(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Escalation.model_validate(given)


def test_jobs_with_claude_are_the_jobs_that_they_were() -> None:
    for given in ({}, {"provider": "anthropic", "model": "claude-sonnet-5-5"}):
        job = Job.model_validate({**JOB, "escalation": given})
        assert job.identity()["escalation.model"] == digest(["anthropic", "claude-sonnet-5-5"])
    gpt = Job.model_validate({**JOB, "escalation": {"provider": "openai"}})
    assert gpt.identity()["escalation.model"] == digest(["openai", "gpt-6.1-sol"])


def test_whose_address_it_is() -> None:
    own = endpoint_at(Escalation.model_validate({"provider": "openai"}).address)
    assert own is not None and own is endpoint_at("https://eu.API.openai.com./v1")
    assert endpoint_at("https://notapi.openai.com.example/v1") is None
    assert endpoint_at("https://myapi.openai.computer/v1") is None


# --- requests -------------------------------------------------------------------------------------


def test_each_endpoint_gets_the_parameters_that_it_knows(api: StandIn) -> None:
    own = OpenAI(Escalation.model_validate({"provider": "openai"})).request(LABELS)
    assert own["max_completion_tokens"] == 512 and "max_tokens" not in own
    assert (own["service_tier"], own["store"], own["reasoning_effort"]) == ("default", False, "low")
    gemini = OpenAI(Escalation.model_validate({"provider": "openai", "base_url": GEMINI}))
    other = OpenAI(settings("local", api, effort=None)).request(LABELS)
    assert set(gemini.request(LABELS)) == {*other, "reasoning_effort"}
    assert set(other) == {"model", "messages", "max_tokens", "response_format"}
    high = OpenAI(settings("local", api, effort="high")).request(LABELS)
    assert high["reasoning_effort"] == "high"


def test_a_request_to_openai_itself_is_one_that_it_takes_and_leaves_to_the_byte(
    api: StandIn,
) -> None:
    api.chat.own = True
    schema = Constraint(SCHEMA)
    prompts = [
        Prompt((Message("system", "Rules.", True), Message("user", "größer 日本 \u2028 <&>"))),
        Prompt((Message("user", "where is my card"),), schema),
        LABELS,
    ]
    provider = OpenAI(Escalation.model_validate({"provider": "openai"}))

    async def main() -> list[Reply]:
        wire = OpenAIWire(f"{api.url}/v1", "OPENAI_API_KEY", 5.0, 2)
        replies = [await wire.send(provider.request(prompt)) for prompt in prompts]
        await wire.aclose()
        return replies

    replies = asyncio.run(main())
    assert [reply.verdict for reply in replies] == ["ok"] * 3, replies
    completions = [provider.completion(reply.body or {}) for reply in replies]
    assert completions[1].text == '{"intent": "lost_card"}'
    assert bare(completions[2], prompts[2].constraint).text == "lost_card"  # out of its object
    left = [body_bytes(provider.request(prompt)).decode() for prompt in prompts]
    seen = api.bill.requests("chat")
    assert [request.raw for request in seen] == left
    assert [request.id for request in seen] == [reply.request_id for reply in replies]


# --- strict schemas -------------------------------------------------------------------------------

STRICT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"enum": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
    ({"enum": ["a", 1, None]}, {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}),
    ({"const": True}, {"type": "boolean", "const": True}),
    (
        {"type": "string", "maxLength": 5, "title": "T", "pattern": "a"},
        {"type": "string", "pattern": "a"},
    ),
    ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
    ({"$ref": "#/$defs/d", "description": "x"}, {"$ref": "#/$defs/d"}),
    (
        {"anyOf": [{"type": "null"}, {"type": "integer", "default": 3}]},
        {"anyOf": [{"type": "null"}, {"type": "integer"}]},
    ),
    (
        {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "null"}}}},
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"a": {"type": "null"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    ),
]


def whole(field: Any, **keys: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"field": field}, **keys}


@pytest.mark.parametrize(("field", "wanted"), STRICT)
def test_schemas_are_put_as_strict_mode_takes_them(
    api: StandIn, field: dict[str, Any], wanted: dict[str, Any]
) -> None:
    schema = whole(field, **{"$defs": {"d": {"enum": ["x"]}}, "$schema": "https://x"})
    made = strict(schema)
    assert made["properties"]["field"] == wanted
    assert (made["required"], made["additionalProperties"]) == (["field"], False)
    prompt = Prompt((Message("user", "x"),), Constraint(schema))
    (reply,) = sent(settings("openai", api), prompt)
    assert reply.verdict == "ok", reply


@pytest.mark.parametrize(
    "field",
    [
        {},
        True,
        {"not": {"type": "string"}},
        {"oneOf": [{"type": "string"}]},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "null"}},
         "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]},
        {"type": "array"},
    ],
)  # fmt: skip
def test_what_strict_mode_cannot_say_is_a_sentence_or_left_to_the_server(
    api: StandIn, field: Any
) -> None:
    prompt = Prompt((Message("user", "x"),), Constraint(whole(field)))
    with pytest.raises(UsageError, match=r"`answer\.schema` is not one that the API takes"):
        OpenAI(Escalation.model_validate({"provider": "openai"})).request(prompt)
    wanted = OpenAI(settings("local", api)).request(prompt)["response_format"]["json_schema"]
    assert (wanted["strict"], wanted["schema"]) == (False, whole(field))


def test_anyof_cannot_stand_at_the_top() -> None:
    with pytest.raises(ValueError, match="anyOf"):
        strict({"type": "object", "anyOf": [whole({"type": "string"})]})


# --- replies --------------------------------------------------------------------------------------


def reply_body(**changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "yes", "refusal": None}
    return {
        "model": "gpt-6.1-sol-2026-09-28",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        **changes,
    }


PROVIDER = OpenAI(Escalation.model_validate({"provider": "openai"}))


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}, Usage(100, 20)),
        ({"prompt_tokens": 100, "completion_tokens": 20}, Usage(100, 20)),
        (
            {
                "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 15},
            },
            Usage(10, 20, cache_write_5m=30, cache_read=60),
        ),
        (
            {
                "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 190,
                "prompt_tokens_details": {"cached_tokens": None}, "completion_tokens_details": None,
            },
            Usage(100, 90),
        ),
    ],
)  # fmt: skip
def test_usage_is_split_without_loss(usage: dict[str, Any], wanted: Usage) -> None:
    assert PROVIDER.bill(reply_body(usage=usage)).usage == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [{"finish_reason": "stop"}]},
        {"choices": [{"message": {"content": [{"type": "text"}]}, "finish_reason": "stop"}]},
    ],
)
def test_a_body_that_is_no_chat_completion_is_a_value_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        PROVIDER.completion(reply_body(**changes))


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": None, "completion_tokens": 3}, {"completion_tokens": 3}]
)
def test_usage_that_cannot_be_read_is_no_bill(usage: Any) -> None:
    body = reply_body(usage=usage)
    with pytest.raises(ValueError, match=r"prompt_tokens|usage"):
        PROVIDER.bill(body)
    assert PROVIDER.completion(body).text == "yes"


def test_a_refusal_is_no_answer_and_a_missing_name_is_the_jobs() -> None:
    said = {"content": None, "refusal": "I'm sorry"}
    refused = PROVIDER.completion(
        reply_body(choices=[{"message": said, "finish_reason": "stop"}], model=None)
    )
    assert (refused.text, refused.finish_reason) == ("I'm sorry", "refusal")
    assert refused.model == "gpt-6.1-sol"


# --- the wire -------------------------------------------------------------------------------------

VERDICTS = {
    **dict.fromkeys(["408", "429", "429_bare", "503", "529"], "retry"),
    **dict.fromkeys(HALTS, "halt"),
    **dict.fromkeys(["400_usage_limits", "409", "413"], "reject"),
    **dict.fromkeys(LOST, "unknown"),
    "no_usage": "ok",  # there is an answer
}


@pytest.mark.parametrize("whose", ["openai", "gemini"])
def test_every_fault_has_its_verdict(api: StandIn, whose: str) -> None:
    given = settings(whose, api)
    for name, verdict in VERDICTS.items():
        late = name in ("slow", "drip")
        api.faults.push(name, endpoint="chat", **({"seconds": 2.0} if late else {}))
        (reply,) = sent(given, LABELS, timeout_s=0.8 if late else 20.0)
        quota = (whose, name) == ("gemini", "429_spend")  # Google has no word for it but the status
        assert reply.verdict == ("retry" if quota else verdict), (name, reply)
        if FAULTS[name].problem is not None:
            assert str(FAULTS[name].problem.status) in (reply.problem or ""), name  # type: ignore[union-attr]
        if name == "429":
            assert reply.retry_after_s == 1.0
        elif name == "429_bare":
            assert reply.retry_after_s == (0.05 if whose == "gemini" else None)
        assert not any(piece in str(reply) for piece in NO_PIECE_OF_THE_KEY), name
    assert sent(given, LABELS)[0].verdict == "ok"


@pytest.mark.parametrize(
    ("code", "param_words", "verdict"),
    [
        ("model_not_found", "no", "halt"),
        ("unsupported_parameter", "no", "halt"),
        (None, "Invalid schema for response_format 'answer'", "halt"),
        (None, "your message is not one that I like", "reject"),
        ("context_length_exceeded", "too long", "reject"),
    ],
)
def test_what_is_wrong_with_every_request_halts(
    api: StandIn, code: str | None, param_words: str, verdict: str
) -> None:
    problem = Problem(400, "invalid_request_error", param_words, error_code=code)
    api.faults.push("413", endpoint="chat", problem=problem)
    (reply,) = sent(settings("openai", api), LABELS)
    assert (reply.verdict, reply.problem) == (verdict, f"400 {param_words}")


def test_a_wrong_address_model_or_key_halts(api: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "/v1/chat": settings("openai", api, base_url=f"{api.url}/nowhere"),
        "gpt-9": settings("openai", api, model="gpt-9"),
    }
    for word, given in wrong.items():
        (reply,) = sent(given, LABELS)
        assert reply.verdict == "halt" and "404" in (reply.problem or ""), word
    monkeypatch.setenv("OPENAI_API_KEY", "bad-key")
    for whose, words in (("openai", "the key in OPENAI_API_KEY is refused"), ("gemini", "API key")):
        (reply,) = sent(settings(whose, api), LABELS)
        assert reply.verdict == "halt" and words in (reply.problem or "")
    assert api.bill.total_usd() == 0


def test_a_server_that_repeats_the_key_does_not_get_it_written_down(api: StandIn) -> None:
    for status in (400, 403, 500):
        problem = Problem(status, "api_error", f"no business here with {KEY}")
        api.faults.push("403", endpoint="chat", problem=problem)
        (reply,) = sent(settings("openai", api), LABELS)
        assert KEY not in str(reply) and "(the key)" in (reply.problem or "")


def test_a_newline_after_the_key_neither_fails_nor_shows_it(
    api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    (reply,) = sent(settings("openai", api), LABELS)
    assert reply.verdict == "ok"
    for wrong in (f"{KEY}\nmore", f"{KEY}…"):
        monkeypatch.setenv("OPENAI_API_KEY", wrong)
        (reply,) = sent(settings("openai", api), LABELS)
        assert reply == Reply("halt", problem="what is in OPENAI_API_KEY cannot be a key")


def test_what_names_an_account_at_openai_goes_to_openai_alone(
    api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-ours")
    sent(settings("openai", api), LABELS)
    (request,) = api.bill.requests("chat")
    assert api.chat.strays == 0
    assert "ours" not in json.dumps(request.headers)


@pytest.mark.process
def test_nobody_there_is_worth_another_try(tmp_path: Path) -> None:
    with StandIn(tmp_path) as gone:
        given = settings("openai", gone)
    (reply,) = sent(given, LABELS)
    assert reply.verdict == "retry" and "connection failed" in (reply.problem or "")


# --- whole runs -----------------------------------------------------------------------------------


def test_each_fault_of_a_single_call_has_its_end(tmp_path: Path, api: StandIn) -> None:
    names = [*RETRIED, *REJECTED, *LOST, *INVALID, "no_usage", "other_case", "sound"]
    assert set(FAULTS) | {"sound"} == {*names, *HALTS}
    for name in names[:-1]:
        changes: dict[str, Any] = {"seconds": 3.0} if name in ("slow", "drip") else {}
        changes |= {"retry_after": 0.05} if name in ("408", "429", "503") else {}
        api.faults.push(name, endpoint="chat", when=marked(name), **changes)
    job = closed_job(tmp_path / "job", api, records(names), {"timeout_s": 1.8, "concurrency": 16})
    ran = run(job)
    api.wait_idle()
    assert api.faults.waiting() == 0
    requests, sure = api.bill.requests("chat"), Decimal(0)
    ends = {
        **dict.fromkeys(REJECTED, ("review", "rejected_by_provider")),
        **dict.fromkeys(LOST, ("review", "reply_lost")),
        **dict.fromkeys(INVALID, ("review", "closed_invalid")),
    }
    for name in names:
        row = ran.rows[name]
        assert (row["status"], row["reason"]) == ends.get(name, ("done", "high_stakes")), name
        assert bool(row["error"]) == (row["status"] == "review"), name
        billed = sum((r.usd for r in requests if marked(name)(r.text)), Decimal(0))
        sql = f"SELECT SUM(cost), SUM(reserved) FROM attempts WHERE record_id='{name}'"
        ((cost, reserved),) = query(ran.run_dir, sql)
        if name in (*LOST, "no_usage"):  # perhaps billed: all of the reservation is spent
            assert cost == reserved > 0 and (billed > 0) == (name not in UNBILLED), name
        else:
            assert Decimal(cost or 0) == billed * 10**12, name
        sure += Decimal(cost or 0) / 10**12
    assert ran.rows["refusal"]["error"] == "gpt-6.1-sol: the model refused"
    assert "max_tokens was reached" in ran.rows["max_tokens"]["error"]
    assert "content_filter" in ran.rows["refusal_late"]["error"]
    assert ran.spent == sure >= api.bill.total_usd()


@pytest.mark.process
def test_what_no_later_call_can_fix_stops_the_sending(tmp_path: Path) -> None:
    def halted(name: str) -> tuple[Ran, int]:
        folder = tmp_path / name
        folder.mkdir()
        with StandIn(folder) as api:
            api.latency = 0.05
            api.faults.push(name, endpoint="chat")
            rows = [*records(f"R-{n}" for n in range(40)), *records(["T-1"], "template")]
            ran = run(closed_job(folder / "job", api, rows, {"concurrency": 2}))
            assert ran.spent == api.bill.total_usd()
            return ran, len(api.bill.requests("chat"))

    words = {
        "401": "401 the key in OPENAI_API_KEY is refused",
        "402": "402 Your credit balance",
        "403": "403 Your key may not",
        "429_spend": "429 You exceeded your current quota",
    }
    with ThreadPoolExecutor(2) as pool:
        for name, (ran, requests) in zip(HALTS, pool.map(halted, HALTS), strict=True):
            assert requests <= 3
            assert words[name] in (ran.summary.stopped or "")
            waiting = {i for i, row in ran.rows.items() if row["status"] == "waiting"}
            assert len(waiting) >= 38 and ran.rows["T-1"]["status"] == "done"
            assert ran.waits_for() == dict.fromkeys(waiting, "provider_halted")
            files = [path for path in ran.run_dir.rglob("*") if path.is_file()]
            kept = b"".join(path.read_bytes() for path in files)
            assert not any(piece.encode() in kept for piece in ("key-that", KEY)), name


def test_the_cap_holds_to_the_cent_and_a_raised_one_goes_on(tmp_path: Path, api: StandIn) -> None:
    cent = Decimal("0.01")
    job = closed_job(
        tmp_path / "job", api, records(f"R-{n}" for n in range(60)),
        {"budget_usd": 0.01, "concurrency": 8},
    )  # fmt: skip
    ran = run(job)
    paid = len(api.bill.requests("chat"))
    assert api.bill.total_usd() == ran.spent <= cent
    assert 0 < paid < 60 and ran.spent > cent - Decimal("0.007")
    assert set(ran.waits_for().values()) == {"budget"}
    ran = run(job, "escalation.budget_usd=1")
    assert ran.summary.unfinished == 0
    assert len(api.bill.requests("chat")) == 60 and api.bill.billed_twice() == {}
    assert api.bill.total_usd() == ran.spent <= 1


def test_a_killed_run_pays_nothing_twice(tmp_path: Path, api: StandIn) -> None:
    api.latency = 0.3
    job = closed_job(tmp_path / "job", api, records(f"R-{n}" for n in range(30)))
    run_dir = job.parent / "run"
    seen = 0
    for _ in range(2):
        process = start(job)
        wait_until(lambda before=seen: len(api.bill.billed()) > before + 3 and api.in_flight > 0)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen = len(api.bill.billed())
    api.latency = 0
    ran = run(job)
    assert set(ran.ends().values()) == {("done", "high_stakes")} and len(ran.rows) == 30
    assert len(api.bill.requests("chat")) == 30 and api.bill.billed_twice() == {}
    assert spent_usd(run_dir) == api.bill.total_usd() > 0


def gemini_at(api: StandIn) -> dict[str, Any]:
    return {"model": MODELS["gemini"], "base_url": f"{api.url}/v1beta/openai/", "effort": "low"}


@pytest.mark.parametrize("where", [lambda api: {"effort": "low"}, gemini_at], ids=["gpt", "gemini"])
def test_what_leaves_is_redacted_written_down_to_the_byte_and_priced_to_the_cent(
    tmp_path: Path,
    api: StandIn,
    capfd: pytest.CaptureFixture[str],
    where: Callable[[StandIn], dict[str, Any]],
) -> None:
    api.latency = 0.1
    rows = records(
        (f"R-{n}" for n in range(24)), note="größer 日本 \u2028 \"'\\ <&>", who="Ada Quill"
    )
    prompt = {"user": "{{ who }} {{ message }} {{ note }}", "system": "Rules without end. " * 300}
    given = where(api)
    job = closed_job(tmp_path / "job", api, rows, given, prompt=prompt, privacy={"redact": ["who"]})
    ran = run(job)
    assert ran.summary.unfinished == 0
    seen = api.bill.requests("chat")
    assert len(seen) == 24 and not any("Quill" in request.raw for request in seen)
    cached = [r.usage["prompt_tokens_details"]["cached_tokens"] for r in seen if r.usage]
    assert sum(count > 0 for count in cached) >= 18
    assert ran.spent == api.bill.total_usd() == sum(r.usd for r in seen) > 0
    url = given.get("base_url", f"{api.url}/v1")
    sql = "SELECT sha256, bytes, url, model, request_id, state FROM attempts"
    left = {(r.sha256, len(r.raw.encode()), url, r.model, r.id, "settled") for r in seen}
    assert set(query(ran.run_dir, sql)) == left
    files = [path for path in ran.run_dir.rglob("*") if path.is_file()]
    assert len(files) > 1 and not [path for path in files if KEY.encode() in path.read_bytes()]
    out = capfd.readouterr()
    assert KEY not in out.out + out.err + "".join(ran.said)


def test_a_server_of_ones_own_needs_no_key_and_no_budget(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    rows = records(f"R-{n}" for n in range(10))
    given = {"provider": "local", "model": "gpt-6.1-sol", "budget_usd": 0}
    job = write_job(tmp_path / "job", f"{api.url}/v1", rows, given)
    ran = run(job)
    assert set(ran.ends().values()) == {("done", "high_stakes")}
    assert {row["model"] for row in rows_of(ran.run_dir).values()} == {"gpt-6.1-sol"}
    assert ran.spent == 0 and ran.said == []
    assert len(api.bill.requests("chat")) == 10
    # One that does ask for a key, and has none, gets nothing sent.
    waits = run(write_job(tmp_path / "waits", f"{api.url}/v1", rows,
                          {**given, "api_key_env": "NOBODY_HAS_THIS_KEY"}))  # fmt: skip
    assert set(waits.waits_for().values()) == {"no_key"}
    assert len(api.bill.requests("chat")) == 10
