"""`surelocal serve` as OpenAI's own SDK sees it: answers, refusals, limits."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from runner.errors import RunDirError, UsageError
from runner.types import Completion, Prompt, Sampling
from tests import jobs
from tests.fakes import read_rows, surelocal
from tests.jobs import query, wait_until
from tests.serving import MODEL, Echo, Served, body, serving, write

pytestmark = pytest.mark.process

SCRIPT = """
from openai import OpenAI

client = OpenAI()
messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Say this is a test"},
]
completion = client.chat.completions.create(
    model="gpt-4o-mini", messages=messages, temperature=0.2, max_tokens=60, user="ann"
)
print(completion.choices[0].message.content)
stream = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="")
"""


def by_schema(text: str) -> str:
    return json.dumps({"intent": "lost_card" if "lost" in text else "card_arrival"})


def rows(run_dir: Path) -> list[dict[str, Any]]:
    result = surelocal("export", run_dir, "-o", run_dir / "out.csv")
    assert result.exit_code == 0, result.stderr
    result = surelocal("export", run_dir, "-o", run_dir / "out.jsonl")
    assert result.exit_code == 0, result.stderr
    return read_rows(run_dir / "out.jsonl")


def refused(served: Served, given: Any, status: int, code: str, **headers: str) -> str:
    reply = served.post(given, **headers)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == code
    assert error["type"] == "invalid_request_error" if status < 500 else "server_error"
    return str(error["message"])


def recorded(served: Served) -> int:
    [(count,)] = query(served.run_dir, "SELECT COUNT(*) FROM outcomes")
    return int(count)


# --- what the SDK gets ----------------------------------------------------------------------------


def test_an_answer_by_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, write(tmp_path), Echo()) as served:
        raw = served.client().chat.completions.with_raw_response.create(**body("hello"))
        found = raw.parse()
        assert found.choices[0].message.content == "echo of hello"
        assert (found.object, found.model) == ("chat.completion", MODEL)
        assert found.choices[0].finish_reason == "stop"
        assert abs(found.created - time.time()) < 60
        assert found.usage is not None
        counts = found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens
        assert counts == (7, 3, 10)
        assert found.model_extra == {
            "surelocal": {
                "status": "done", "decided_by": "local", "reason": "confident",
                "confidence": 0.99, "field_confidence": {}, "cost_usd": 0.0, "calibrated": False,
                "record": found.id,
            }
        }  # fmt: skip
        shown = {k: v for k, v in raw.headers.items() if k.startswith("x-surelocal")}
        assert shown == {
            "x-surelocal-status": "done", "x-surelocal-decided-by": "local",
            "x-surelocal-reason": "confident", "x-surelocal-confidence": "0.9900",
            "x-surelocal-cost-usd": "0.00000000", "x-surelocal-record": found.id,
        }  # fmt: skip
        assert raw.headers["x-request-id"].startswith("req_")
        ChatCompletion.model_validate(json.loads(raw.text), strict=True)
        other = served.ask("hello")
        assert other.id != found.id


def test_streams_by_the_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "one, two\n\n  three ünd mehr"

    async def main(url: str) -> list[Any]:
        http = openai.DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(base_url=url, api_key="k", http_client=http) as client:
            more = {"stream": True, "stream_options": {"include_usage": True}}
            stream: Any = await client.chat.completions.create(**body(), **more)
            return [chunk async for chunk in stream]

    with serving(monkeypatch, write(tmp_path), Echo(lambda text: said)) as served:
        chunks = asyncio.run(main(f"{served.url}/v1"))
        *parts, last = chunks
        assert parts[0].choices[0].delta.role == "assistant"
        assert "".join(part.choices[0].delta.content or "" for part in parts) == said
        assert len(parts) > 4
        assert [part.choices[0].finish_reason for part in parts][-2:] == [None, "stop"]
        assert parts[-1].model_extra["surelocal"]["decided_by"] == "local"
        assert last.choices == [] and last.usage.total_tokens == 10
        assert {chunk.id for chunk in chunks} == {last.id}
        plain = list(served.client().chat.completions.create(**body(), stream=True))
        assert all(chunk.choices for chunk in plain)
        with served.client().chat.completions.stream(**body()) as stream:
            assert stream.get_final_completion().choices[0].message.content == said
        raw = served.post(body(stream=True))
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-surelocal-decided-by"] == "local"
        assert raw.text.endswith("data: [DONE]\n\n")


def test_an_unmodified_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    engine = Echo()
    with serving(monkeypatch, write(tmp_path), engine) as served:
        ran = subprocess.run(
            [sys.executable, tmp_path / "script.py"],
            env=os.environ | {"OPENAI_BASE_URL": f"{served.url}/v1", "OPENAI_API_KEY": "sk-any"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["echo of Say this is a test"] * 2
    first = engine.prompts[0].messages
    assert [m.role for m in first] == ["system", "user"]
    assert (engine.sampled[0].temperature, engine.sampled[0].max_tokens) == (0.2, 60)


def test_the_least_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"name: least\nlocal: {{model: {MODEL}}}\nconfidence: {{threshold: 0.5}}\n")
    with serving(monkeypatch, job, Echo()) as served:
        assert served.ask("hi").choices[0].message.content == "echo of hi"
        own = served.post(body("no closed model, unsure"))
        assert own.json()["error"]["code"] == "not_certified"


def test_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, write(tmp_path), Echo()) as served:
        [model] = served.client().models.list().data
        assert model.id == MODEL
        assert served.client().models.retrieve(MODEL).owned_by == "surelocal"
        with pytest.raises(openai.NotFoundError, match="whatever is asked for"):
            served.client().models.retrieve("gpt-5")
        with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
            served.client().embeddings.create(model="m", input="text")
        assert served.get("/health").json() == {"status": "ok", "at_work": 0, "escalation": "on"}
        assert served.get("/v1/chat/completions").status_code == 405
        served.ask()
        text = served.get("/metrics").text
        assert (
            'surelocal_requests_total{decided_by="local",reason="confident",status="done"} 1.0'
            in text
        )
        assert "surelocal_request_seconds_count 1.0" in text


class Intent(BaseModel):
    intent: str


def test_the_job_s_answer_is_the_response_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write(tmp_path, answer={"schema": jobs.SCHEMA})
    titled = {"title": "Intent", **jobs.SCHEMA}
    with serving(monkeypatch, job, Echo(by_schema)) as served:
        for schema in (titled, jobs.SCHEMA):
            kind = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
            found = served.ask("i lost it", response_format=kind)
            assert json.loads(found.choices[0].message.content) == {"intent": "lost_card"}
        for kind in ({"type": "json_object"}, {"type": "text"}, None):
            assert served.ask(response_format=kind).model_extra["surelocal"]["status"] == "done"
        with pytest.raises(openai.BadRequestError, match="not the `answer` of the job"):
            served.client().chat.completions.parse(**body(), response_format=Intent)


# --- what may not stand ---------------------------------------------------------------------------


def test_an_unsure_answer_is_an_error_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo()
    with serving(monkeypatch, write(tmp_path), engine) as served:
        with pytest.raises(openai.InternalServerError, match="local model says") as raised:
            served.ask("unsure of this")
        error = raised.value
        assert (error.status_code, error.code, error.type) == (503, "not_certified", "server_error")
        assert isinstance(error.body, dict)
        assert error.body["surelocal"]["status"] == "review"
        assert error.response.headers["x-surelocal-reason"] == "unsure"
        assert len(engine.prompts) == 1, "the SDK does not ask again"
        given = served.ask("unsure of this", surelocal_on_unsure="answer")
        assert given.choices[0].message.content == "echo of unsure of this"
        own = given.model_extra["surelocal"]
        assert (own["status"], own["decided_by"], own["reason"]) == ("review", None, "unsure")
        assert own["confidence"] == 0.3
        by_header = served.post(body("unsure"), x_surelocal_on_unsure="answer")
        assert by_header.headers["x-surelocal-decided-by"] == "nobody"
        refused(served, body(surelocal_on_unsure="no"), 400, "invalid_request")
    with serving(monkeypatch, tmp_path / "job.yaml", Echo(), on_unsure="answer") as served:
        assert served.ask("unsure").choices[0].message.content == "echo of unsure"
        refused(served, body("unsure", surelocal_on_unsure="error"), 503, "not_certified")


RULES: dict[str, Any] = {
    "routes": [
        {"when": "kind == 'birthday'", "to": "template", "answer": "Hurray, {{ first_name }}!"},
        {"when": "'lawyer' in message", "to": "closed", "reason": "legal: § 1"},
    ],
    "privacy": {"keep_local": "region == 'EU'"},
}


def test_rules_see_the_message_and_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo()
    with serving(monkeypatch, write(tmp_path, **RULES), engine) as served:
        fields = {"kind": "birthday", "first_name": "Ann"}
        found = served.ask("hi", metadata=fields)
        assert found.choices[0].message.content == "Hurray, Ann!"
        assert found.model_extra["surelocal"]["decided_by"] == "template"
        assert (found.model, found.usage.total_tokens) == ("surelocal-template", 0)
        assert not engine.prompts
        assert served.ask("no field is named").choices[0].message.content
        assert "first_name" in refused(
            served, body(metadata={"kind": "birthday"}), 400, "bad_prompt"
        )
        # There is no closed model: a person has it. Without a region it could not leave anyway.
        message = refused(served, body("my lawyer"), 503, "kept_local")
        assert "waits for a person" in message
        reply = served.post(body("my lawyer", metadata={"region": "US"}))
        assert reply.headers["x-surelocal-reason"] == "legal: %C2%A7 1"
        refused(served, body(metadata=["kind"]), 400, "invalid_request")


def test_a_job_s_own_prompt_is_for_a_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"system": "Be brief.", "user": "Message: {{ message }}"}
    engine = Echo()
    with serving(monkeypatch, write(tmp_path, prompt=own), engine) as served:
        assert served.ask("hi").choices[0].message.content == "echo of Message: hi"
        system = {"role": "system", "content": "Be long."}
        served.post(body() | {"messages": [system, *body("hi")["messages"]]})
    said = [[(m.role, m.content) for m in prompt.messages] for prompt in engine.prompts]
    assert said == [
        [("system", "Be brief."), ("user", "Message: hi")],
        [("system", "Be long."), ("user", "hi")],
    ]
    other = {"user": "{{ subject }}: {{ message }}"}
    (tmp_path / "b").mkdir()
    with serving(monkeypatch, write(tmp_path / "b", prompt=other), engine) as served:
        assert "`metadata`" in refused(served, body(), 400, "invalid_request")
        found = served.ask("hi", metadata={"subject": "Re"})
        assert found.choices[0].message.content == "echo of Re: hi"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "no JSON object"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not JSON"),
        (b'{"temperature": NaN, "messages": []}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"model": "m"}, "no messages"),
        ({"messages": []}, "no messages"),
        (body(tools=[{"type": "function"}]), "tools"),
        (body(n=2), "one answer"),
        (body(temperature=9), "temperature"),
        (body(stream="yes"), "true or false"),
        (body(stream_options=1), "stream_options"),
        (body(max_escalation_usd="-1"), "US dollars"),
        (body(max_escalation_usd=True), "US dollars"),
        (body(max_escalation_usd="Infinity"), "US dollars"),
        (body(metadata={"record_id": "x" * 500}), "id must be"),
        (body(metadata={"record_id": "a\nb"}), "id must be"),
        (body(response_format={"type": "json_schema"}), "json_schema"),
        (body(surprise=1), "surprise"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_recorded(
    everyday: Served, given: Any, words: str
) -> None:
    code = "invalid_json" if words == "not JSON" else "invalid_request"
    assert words in refused(everyday, given, 400, code)
    assert recorded(everyday) == 0


@pytest.fixture(scope="module")
def everyday(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(patch, write(tmp_path_factory.mktemp("job")), Echo(), max_body=200_000) as served,
    ):
        yield served


def test_a_body_that_is_too_long(everyday: Served) -> None:
    refused(everyday, body("x" * 200_001), 413, "too_large")

    def parts() -> Any:
        yield from (b"x" * 50_000 for _ in range(10))

    with httpx2.Client(verify=False) as http:
        url, kind = f"{everyday.url}/v1/chat/completions", {"content-type": "application/json"}
        assert http.post(url, content=parts(), headers=kind).status_code == 413
    assert recorded(everyday) == 0


def test_a_page_in_a_browser_is_turned_away(everyday: Served) -> None:
    refused(everyday, body(), 415, "not_json", content_type="text/plain")
    refused(everyday, body(), 403, "wrong_host", host="evil.example:8088")
    assert everyday.get("/v1/models", host="localhost").status_code == 200
    assert everyday.get("/v1/models", host="[::1]:8088").status_code == 200
    assert recorded(everyday) == 0


def test_a_key_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_KEY", " s3cret-ü \n")
    job = write(tmp_path)
    with serving(monkeypatch, job, Echo(), api_key_env="SERVE_KEY") as served:
        with pytest.raises(openai.AuthenticationError, match="this server's own"):
            served.ask()
        for given in ("Bearer s3cret", "Basic s3cret-ü", "Bearer", ""):
            headers = {"authorization": given.encode()}
            with httpx2.Client(verify=False) as http:
                for path in ("/v1/models", "/metrics", "/nothing"):
                    assert http.get(served.url + path, headers=headers).status_code == 401
        right = {"authorization": "Bearer s3cret-ü".encode(), "host": "any.example"}
        with httpx2.Client(verify=False) as http:
            assert http.get(f"{served.url}/v1/models", headers=right).status_code == 200
        assert served.get("/health").status_code == 200
        assert "with its API key" in served.said[-1]
    assert b"s3cret" not in b"".join(p.read_bytes() for p in served.run_dir.iterdir())


def test_whom_it_lets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write(tmp_path, "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "theirs")
    for given, words in [
        (["--host", "0.0.0.0"], "--api-key-env"),
        (["--host", "::"], "--api-key-env"),
        (["--api-key-env", "NOBODY_HAS_THIS"], "no key in NOBODY_HAS_THIS"),
        (["--api-key-env", "ANTHROPIC_API_KEY"], "closed model's key"),
    ]:
        result = surelocal("serve", job, *given)
        assert result.exit_code == 2
        assert words in result.stderr


# --- limits ---------------------------------------------------------------------------------------


def test_more_at_once_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo(pause_s=0.5)
    with (
        serving(monkeypatch, write(tmp_path), engine, max_concurrent=1) as served,
        ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(served.ask, "first")
        engine.begun.wait(10)
        reply = served.post(body("second"))
        assert reply.status_code == 429
        assert reply.json()["error"]["code"] == "too_many_requests"
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "true")
        # The SDK asks again by itself.
        assert served.ask("third").choices[0].message.content == "echo of third"
        assert first.result().choices[0].message.content == "echo of first"
        assert recorded(served) == 2


def test_an_answer_that_comes_too_late_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo(pause_s=0.6)
    with serving(monkeypatch, write(tmp_path), engine, timeout_s=0.2) as served:
        asked = body("slow", metadata={"record_id": "R-1"})
        assert "R-1" in refused(served, asked, 504, "timeout")
        wait_until(lambda: recorded(served) == 1)
        found = served.client().chat.completions.create(**asked)
        assert found.choices[0].message.content == "echo of slow"
        assert found.model_extra is not None
        assert found.model_extra["surelocal"]["record"] == "R-1"
        assert found.usage is not None and found.usage.total_tokens == 10
        assert len(engine.prompts) == 1


def test_a_record_by_the_client_s_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Echo(pause_s=0.1)
    with (
        serving(monkeypatch, write(tmp_path), engine) as served,
        ThreadPoolExecutor(8) as pool,
    ):
        named = body("hi", metadata={"record_id": "R-1"})
        replies = list(pool.map(served.post, [named] * 8))
        assert len({r.json()["id"] for r in replies}) == 1
        assert served.post(body("hi") | {"metadata": None}, x_record_id="R-2").status_code == 200
        other = refused(served, body("ho", metadata={"record_id": "R-1"}), 409, "record_id_taken")
        assert "R-1" in other
        assert len(engine.prompts) == 2
        assert served.post(named | {"stream": True}).status_code == 200
        assert recorded(served) == 2
    with serving(monkeypatch, tmp_path / "job.yaml", engine) as served:
        again = served.post(named).json()
        assert again["choices"][0]["message"]["content"] == "echo of hi"
        assert again["usage"]["total_tokens"] == 10
        assert len(engine.prompts) == 2
    assert [row["custom_id"] for row in rows(served.run_dir)] == ["R-1", "R-2"]


def test_a_client_that_goes_before_its_turn_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo(pause_s=0.4, window=1)
    with serving(monkeypatch, write(tmp_path), engine) as served, ThreadPoolExecutor() as pool:
        first = pool.submit(served.ask, "first")
        engine.begun.wait(10)
        raw = json.dumps(body("gone")).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}"
            "\r\ncontent-type: application/json\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
            connection.sendall(head.encode() + raw)
            wait_until(lambda: served.get("/health").json()["at_work"] == 2)
        first.result()
        wait_until(lambda: served.get("/health").json()["at_work"] == 0)
        assert len(engine.prompts) == recorded(served) == 1


# --- many at once ---------------------------------------------------------------------------------


class Slow(Echo):
    """Answers in an order of its own."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        await asyncio.sleep(random.Random(prompt.messages[-1].content).uniform(0, 0.05))
        return await super().generate(prompt, sampling)


def test_two_hundred_clients_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, each = 200, 5

    async def one(http: httpx2.AsyncClient, number: int) -> None:
        for n in range(each):
            mark = f"<{number}-{n}>"
            reply = await http.post(
                "/v1/chat/completions",
                json=body(mark, stream=n == each - 1, metadata={"record_id": mark}),
            )
            assert reply.status_code == 200, reply.text
            assert reply.headers["x-surelocal-record"] == mark
            if n < each - 1:
                assert reply.json()["choices"][0]["message"]["content"] == f"echo of {mark}"
            else:
                events = [e.removeprefix("data: ") for e in reply.text.split("\n\n")[:-2]]
                parts = [json.loads(e)["choices"][0]["delta"].get("content") for e in events]
                assert "".join(part or "" for part in parts) == f"echo of {mark}"

    async def all_of_them(url: str) -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(
            base_url=url, verify=False, limits=limits, timeout=60
        ) as http:
            await asyncio.gather(*(one(http, number) for number in range(clients)))

    with serving(monkeypatch, write(tmp_path), Slow()) as served:
        asyncio.run(all_of_them(served.url))
        assert served.get("/health").json()["at_work"] == 0
        assert recorded(served) == clients * each
    marks = {f"<{number}-{n}>" for number in range(clients) for n in range(each)}
    found = {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in rows(served.run_dir)
    }
    assert found == {mark: f"echo of {mark}" for mark in marks}


# --- the run directory ----------------------------------------------------------------------------


def test_its_run_directory_is_read_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, write(tmp_path), Echo()) as served:
        served.ask("one")
        served.ask("unsure", surelocal_on_unsure="answer")
        with pytest.raises(RunDirError, match="another surelocal"):  # noqa: SIM117
            with serving(monkeypatch, tmp_path / "job.yaml", Echo()):
                pass
        result = surelocal("status", served.run_dir, "--json")
        assert json.loads(result.stdout)["records"] == 2
    lines = rows(served.run_dir)
    assert [line["surelocal"]["status"] for line in lines] == ["done", "review"]
    result = surelocal("report", served.run_dir)
    assert result.exit_code == 0, result.stderr
    assert surelocal("status", served.run_dir, "--verify").exit_code == 0
    queue = tmp_path / "queue.csv"
    result = surelocal("review", "export", served.run_dir, queue)
    assert result.exit_code == 0, result.stderr
    assert "echo of unsure" in queue.read_text()
    with serving(monkeypatch, tmp_path / "job.yaml", Echo()) as served:
        served.ask("three")
        assert recorded(served) == 3


def test_what_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="cannot listen"):  # noqa: SIM117
            with serving(monkeypatch, job, Echo(), port=port):
                pass
    (tmp_path / "batch").mkdir()
    batch = jobs.write_job(
        tmp_path / "batch", "http://127.0.0.1:9", jobs.records(["a"], "template")
    )
    jobs.run(batch, f"local.model={MODEL}", "escalation=null")
    with pytest.raises(RunDirError, match="a batch's records"):  # noqa: SIM117
        with serving(monkeypatch, batch, Echo(), f"local.model={MODEL}", "escalation=null"):
            pass
    divided = ["confidence={policy: budget}", "escalation.budget_usd=1"]
    result = surelocal("serve", job, *(each for o in divided for each in ("--set", o)))
    assert result.exit_code == 2
    assert "`policy: budget`" in result.stderr
    result = surelocal("serve", job, "--set", "local.model=/nowhere")
    assert result.exit_code == 2


class Dying(Echo):
    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        from runner.errors import EngineDied

        raise EngineDied("the engine's process is gone")


def test_an_engine_that_is_gone_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.errors import EngineDied

    with pytest.raises(EngineDied), serving(monkeypatch, write(tmp_path), Dying()) as served:
        refused(served, body(), 500, "server_stopping")
        wait_until(lambda: not _listens(served), 20)


def _listens(served: Served) -> bool:
    try:
        served.get("/health")
    except httpx2.HTTPError:
        return False
    return True


# --- with a real model ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo_served_by_vllm(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = jobs.ROOT / "configs" / "demo" / "job.yaml"
    command = [sys.executable, "-m", "runner.cli.main", "serve", str(job), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "run")],
        cwd=jobs.ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while "at http" not in (line := process.stderr.readline()):
            assert line, "it ended before it was ready"
        http = httpx2.Client(verify=False)
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any", http_client=http
        ) as client:
            found: Any = client.chat.completions.create(**body("my card was declined at the store"))
            answer = json.loads(found.choices[0].message.content)
            assert answer == {"intent": "card_declined", "domain": "credit_cards"}
            assert found.surelocal["confidence"] > 0.9
            assert found.usage.completion_tokens > 5
            with pytest.raises(openai.InternalServerError, match="no key"):
                client.chat.completions.create(**body("what does zebra law say of my bank"))
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        process.stderr.close()
    assert query(tmp_path / "run", "SELECT status FROM outcomes") == [("done",), ("waiting",)]
