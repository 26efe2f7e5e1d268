"""OpenAI batch files in and out: what a line may ask for, and what stands in the line it gets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai.types.chat import ChatCompletion

from runner.types import Completion, Prompt, Sampling, Usage
from tests import jobs
from tests.fakes import read_rows, surelocal
from tests.jobs import DEMO_MODEL, use_engine
from tests.stand_in import StandIn

pytestmark = pytest.mark.process

SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "strict": True, "schema": jobs.SCHEMA},
}
MINIMAL = {
    "name": "night",
    "records": {"path": "batch.jsonl"},
    "local": {"model": str(DEMO_MODEL), "engine": "vllm"},
    "confidence": {"threshold": 0.5},
}


@dataclass
class Engine:
    """Answers every prompt alike, and keeps what it was asked."""

    text: str = "as you wish"
    logprob: float = -0.1
    window: int = 4
    prompts: list[Prompt] = field(default_factory=list)
    sampled: list[Sampling] = field(default_factory=list)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.prompts.append(prompt)
        self.sampled.append(sampling)
        usage = Usage(input_tokens=7, output_tokens=3)
        return Completion(self.text, "local-model", "stop", (self.text,), (self.logprob,), usage)

    async def aclose(self) -> None:
        return None


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    use_engine(monkeypatch, made)
    return made


def ask(name: str, text: Any = "where is my card", **body: Any) -> dict[str, Any]:
    messages = body.pop("messages", [{"role": "user", "content": text}])
    whole = {"model": "gpt-5-mini", "messages": messages, **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": whole}


def write(folder: Path, *lines: Any, **keys: Any) -> Path:
    """A batch file, and a job for it with as little as there can be."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "batch.jsonl").write_text("\n".join(texts) + "\n", "utf-8")
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **keys}, sort_keys=False), "utf-8")
    return path


def run(job: Path, *options: object, status: int = 0, at: str = "run") -> list[dict[str, Any]]:
    result = surelocal("run", job, "--run-dir", job.parent / at, *options)
    assert result.exit_code == status, result.stderr
    return read_rows(job.parent / at / "results.jsonl")


def refused(job: Path) -> str:
    result = surelocal("validate", job)
    assert result.exit_code == 2, result.stderr
    return result.stderr


def completion(line: dict[str, Any]) -> ChatCompletion:
    """The line's answer, as OpenAI's own SDK reads it."""
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    assert line["response"]["request_id"]
    return ChatCompletion.model_validate(line["response"]["body"], strict=True)


def test_a_batch_file_becomes_the_matching_output_file(tmp_path: Path, engine: Engine) -> None:
    job = write(tmp_path, *(ask(f"r-{n}", f"question {n}") for n in range(9)))
    lines = run(job)
    assert [line["custom_id"] for line in lines] == [f"r-{n}" for n in range(9)]
    assert len({line["id"] for line in lines}) == 9
    found = completion(lines[0])
    assert (found.object, found.model) == ("chat.completion", "local-model")
    [choice] = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "as you wish")
    assert choice.finish_reason == "stop"
    assert found.usage is not None
    counts = found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens
    assert counts == (7, 3, 10)
    assert lines[0]["surelocal"] == {
        "status": "done", "decided_by": "local", "reason": "confident", "confidence": 0.9048,
        "field_confidence": {}, "cost_usd": 0.0, "asked_for": "gpt-5-mini",
    }  # fmt: skip
    written = (tmp_path / "run" / "results.jsonl").read_bytes()
    assert run(job) == lines
    assert len(engine.prompts) == 9, "a rerun asks nothing again"
    run(job, at="other")
    assert (tmp_path / "other" / "results.jsonl").read_bytes() == written


def test_the_document_s_job_runs_such_a_file(tmp_path: Path, engine: Engine) -> None:
    text = (jobs.ROOT / "docs" / "files-and-databases.md").read_text("utf-8")
    [_, rest] = text.split("\n## OpenAI batch files\n")
    job = write(tmp_path, ask("a"))
    job.write_text(rest.split("```yaml\n")[1].split("```")[0], "utf-8")
    [line] = run(job, "--set", f"local.model={DEMO_MODEL}")
    assert completion(line).choices[0].message.content == "as you wish"
    assert engine.sampled[0].max_tokens == 1024


def test_messages_and_settings_reach_the_engine(tmp_path: Path, engine: Engine) -> None:
    engine.window = 1
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "one, "},
                                                    {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None},
        {"role": "user", "content": "four"},
    ]  # fmt: skip
    settings = {
        "max_completion_tokens": 12, "temperature": 0.5, "seed": -3, "top_p": 0.9, "stop": ["END"],
        "presence_penalty": 0.1, "frequency_penalty": 0,
    }  # fmt: skip
    harmless = {
        "stream": False, "n": 1, "tools": [], "tool_choice": "auto", "logprobs": False, "user": "u",
        "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "top_logprobs": None,
        "response_format": {"type": "text"}, "parallel_tool_calls": True,
    }  # fmt: skip
    plain = {**MINIMAL["local"], "sampling": {"max_tokens": 99, "top_k": 5}}
    job = write(tmp_path, ask("a", messages=messages, **settings, **harmless), ask("b"),
                ask("c", max_tokens=4), local=plain)  # fmt: skip
    assert [line["error"] for line in run(job)] == [None] * 3
    first = engine.prompts[0]
    assert [(m.role, m.content) for m in first.messages] == [
        ("system", "Be brief."), ("user", "one, two"), ("assistant", "three"), ("user", "four"),
    ]  # fmt: skip
    assert engine.sampled[0] == Sampling(
        0.5, 12, -3, {"top_k": 5, "top_p": 0.9, "stop": ["END"], "presence_penalty": 0.1,
                      "frequency_penalty": 0}, engine.sampled[1].top_logprobs,
    )  # fmt: skip
    assert [(s.temperature, s.max_tokens, s.seed) for s in engine.sampled[1:]] == [
        (0.0, 99, 0), (0.0, 4, 0),
    ]  # fmt: skip


IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            ask("x", stream=True),
            "`body.stream` is True: an output file cannot stream; leave",
        ),
        (ask("x", n=2), "`body.n` is 2: a record has one answer; leave it out"),
        (ask("x", n=True), "`body.n` is True"),
        (ask("x", tools=[{"type": "function"}]), "calling tools is not supported"),
        (ask("x", tool_choice="required"), "is 'required': that is not supported"),
        (ask("x", logprobs=True), "`body.logprobs` is True: that is not supported"),
        (ask("x", reasoning_effort="high"), "`body.reasoning_effort` is not supported; leave"),
        (ask("x", top_k=3), "leave it out, or set it for all records in the job's `local`"),
        (ask("x", temperature=3), "`body.temperature` is 3, but must be a number from 0 to 2"),
        (ask("x", temperature="0"), "`body.temperature` is '0', but must be a number"),
        (ask("x", max_tokens=0), "`body.max_tokens` is 0, but must be a whole number from 1 up"),
        (ask("x", seed=1.5), "`body.seed` is 1.5"),
        (ask("x", seed=1 << 64), "`body.seed` is 18446744073709551616"),
        (ask("x", top_p=0), "`body.top_p` is 0"),
        (ask("x", stop=[]), "`body.stop` is [], but must be a text or up to four texts"),
        (ask("x", response_format={"type": "grammar"}), "`body.response_format` must be text,"),
        (
            ask("x", response_format=SCHEMA),
            "`body.response_format` is not that of line 1, but a",
        ),
        (ask("x", IMAGE), "`body.messages[0]` holds an image; only text is supported"),
        (ask("x", [{"type": "input_audio"}]), "holds a recording; only text is supported"),
        (ask("x", [{"type": "odd"}]), "holds a part of type 'odd'"),
        (ask("x", 7), "`body.messages[0]`: its content is neither a text nor a list of texts"),
        (ask("x", messages=[]), "`body.messages` has no messages"),
        (ask("x", messages=[USER, CALL, USER]), "`body.messages[1]` calls tools"),
        (
            ask("x", messages=[{"role": "tool", "content": "x"}]),
            "its role 'tool' is not one of sys",
        ),
        (ask("x", messages=["x"]), "`body.messages[0]`: its role None is not one of"),
        (ask("x", messages=[USER, {"role": "assistant", "content": "y"}]), "there is no question"),
        ({**ask("x"), "url": "/v1/embeddings"}, "`url` is '/v1/embeddings'; only /v1/chat/compl"),
        (
            {**ask("x"), "method": "GET"},
            "`method` is 'GET'; a chat completion needs",
        ),
        ({**ask("x"), "body": "x"}, "`body` is not an object"),
        ({"custom_id": "x", "body": {}}, "it is not a batch request: it lacks `method`"),
        ({"url": "x"}, "the object has no `custom_id`"),
        ({**ask(""), "custom_id": " "}, "the id column `custom_id` is empty; give it an id"),
        ("{", "not JSON"),
        (ask("a"), "the id a is already another record's"),
    ],
)
def test_what_cannot_be_done_is_an_error_of_its_line(
    tmp_path: Path, engine: Engine, line: Any, said: str
) -> None:
    lines = run(write(tmp_path, ask("a"), line, ask("b")), status=3)
    assert [one["error"] is None for one in lines] == [True, False, True]
    bad = lines[1]
    assert bad["response"] is None
    assert bad["error"]["code"] == "bad_record"
    assert bad["error"]["message"].startswith("line 2: ")
    assert said in bad["error"]["message"]
    assert bad["surelocal"]["status"] == "error"


def test_what_the_engine_lacks_is_an_error_of_its_line(tmp_path: Path, engine: Engine) -> None:
    local = {**MINIMAL["local"], "engine": "transformers"}
    lines = run(write(tmp_path, ask("a", stop="END"), ask("b", top_p=0.5), local=local), status=3)
    assert lines[0]["error"]["message"] == (
        "line 1: `body.stop` is not supported by this engine; leave it out"
    )
    assert lines[1]["error"] is None


def test_a_fixed_line_is_done_by_the_same_run_and_a_changed_one_asked_again(
    tmp_path: Path, engine: Engine
) -> None:
    run(write(tmp_path, ask("a"), ask("b", n=2)), status=3)
    lines = run(write(tmp_path, ask("a"), ask("b")))
    assert [line["error"] for line in lines] == [None, None]
    assert len(engine.prompts) == 2
    job = write(tmp_path, ask("a", temperature=0.1), ask("b"))
    assert [line["error"] for line in run(job)] == [None, None]
    assert len(engine.prompts) == 3


# -- what the answer is held to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "schema"), [(SCHEMA, jobs.SCHEMA), ({"type": "json_object"}, {"type": "object"})]
)
def test_the_file_s_response_format_holds_the_model(
    tmp_path: Path, engine: Engine, asked: Any, schema: Any
) -> None:
    engine.text = '{"intent": "lost_card"}'
    first, last = (ask(name, response_format=asked) for name in "ac")
    job = write(tmp_path, first, ask("b"), last)
    lines = run(job, status=3)
    assert [prompt.constraint.schema for prompt in engine.prompts] == [schema] * 2
    answer = completion(lines[0]).choices[0].message.content
    assert json.loads(answer or "") == {"intent": "lost_card"}
    assert "is not that of line 1" in lines[1]["error"]["message"]


def test_the_job_s_answer_where_the_file_asks_for_none(tmp_path: Path, engine: Engine) -> None:
    engine.text = "yes"
    lines = run(write(tmp_path, ask("a"), answer={"labels": ["yes", "no"]}))
    assert completion(lines[0]).choices[0].message.content == "yes"
    assert engine.prompts[0].constraint.labels == ("yes", "no")


@pytest.mark.parametrize(
    ("keys", "line", "said"),
    [
        ({"answer": "text"}, ask("a", response_format=SCHEMA), "`answer` differs from"),
        ({}, ask("a", response_format={"type": "json_schema", "json_schema": {
            "schema": {"type": "array"}}}), "its schema must describe an object"),
        ({}, ask("a", response_format={"type": "json_schema", "json_schema": {
            "schema": {"type": "object", "properties": 7}}}), "is not a JSON Schema"),
        ({"records": {"path": "batch.jsonl", "format": "openai_batch"}, "prompt": {"user": "x"}},
         ask("a"), "`prompt`: the messages of an OpenAI batch file are its prompt: leave"),
        ({"records": {"path": "batch.jsonl", "format": "openai_batch", "id": "id"}},
         ask("a"), "the id of records in an OpenAI batch file is `custom_id`"),
        ({}, {"custom_id": "a", "text": "b"}, "`prompt` is missing"),
        ({"records": {"path": "no.jsonl", "format": "openai_batch"}}, ask("a"), "No such file"),
    ],
)  # fmt: skip
def test_mistakes_that_validate_names(
    tmp_path: Path, keys: dict[str, Any], line: Any, said: str
) -> None:
    assert said in refused(write(tmp_path, line, **keys))


def test_a_file_is_known_by_its_first_line(tmp_path: Path, engine: Engine) -> None:
    job = write(tmp_path, "", ask("a"))
    packed = tmp_path / "batch.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (tmp_path / "batch.jsonl").read_bytes()))
    lines = run(job, "--records", packed)
    assert completion(lines[0]).choices[0].message.content == "as you wish"


def test_a_broken_first_line_where_the_format_is_given(tmp_path: Path, engine: Engine) -> None:
    records = {"path": "batch.jsonl", "format": "openai_batch"}
    job = write(tmp_path, "{", ask("b", response_format=SCHEMA), records=records)
    engine.text = '{"intent": "lost_card"}'
    assert [line["error"] is None for line in run(job, status=3)] == [False, True]


def test_with_a_prompt_of_the_job_s_own_it_is_plain_jsonl(tmp_path: Path, engine: Engine) -> None:
    prompt = {"user": "Translate: {{ body.messages[0].content }}"}
    records = {"path": "batch.jsonl", "id": "custom_id"}
    rows = run(write(tmp_path, ask("a"), prompt=prompt, records=records, answer="text"))
    assert engine.prompts[0].messages[0].content == "Translate: where is my card"
    assert (rows[0]["id"], rows[0]["value"]) == ("a", "as you wish")


def test_routes_see_the_message_and_the_body(tmp_path: Path, engine: Engine) -> None:
    rules = [
        {"when": "body.model == 'gpt-9'", "to": "template", "answer": "no such model"},
        {"when": "'lawyer' in message", "to": "review", "reason": "legal"},
    ]
    lines = run(
        write(tmp_path, ask("a", model="gpt-9"), ask("b", "my lawyer"), ask("c"), routes=rules),
        status=3,
    )
    by_template = completion(lines[0])
    assert by_template.choices[0].message.content == "no such model"
    assert by_template.model == "surelocal-template"
    assert lines[1]["error"] == {"code": "legal", "message": "it waits for a person (legal)"}
    assert lines[2]["surelocal"]["asked_for"] == "gpt-5-mini"


# -- what the closed model has to do with it -----------------------------------------------------


@pytest.fixture
def oracle() -> Callable[[str], str]:
    return lambda text: "lost_card"


def test_what_is_escalated_has_the_closed_model_s_answer_and_usage(
    tmp_path: Path, engine: Engine, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.text, engine.logprob = '{"intent": "card_arrival"}', -3.0
    closed = {"model": "claude-sonnet-5-5", "budget_usd": 5, "base_url": api.url, "max_tokens": 64}
    job = write(tmp_path, ask("a", response_format=SCHEMA), escalation=closed)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    [waiting] = run(job, status=3)
    assert waiting["response"] is None
    assert waiting["error"] == {
        "code": "unsure",
        "message": "it waits for the closed model (unsure)",
    }
    monkeypatch.setenv("ANTHROPIC_API_KEY", jobs.KEY)
    result = surelocal("escalate", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    [line] = read_rows(tmp_path / "run" / "results.jsonl")
    found = completion(line)
    assert json.loads(found.choices[0].message.content or "") == {"intent": "lost_card"}
    assert found.model.startswith("claude-sonnet-5-5")
    [(usage,)] = jobs.query(tmp_path / "run", "SELECT usage FROM attempts")
    billed = json.loads(usage)
    assert found.usage is not None
    assert found.usage.prompt_tokens == billed["input_tokens"] > 7
    assert found.usage.completion_tokens == billed["output_tokens"]
    assert line["surelocal"]["decided_by"] == "closed"
    assert line["surelocal"]["cost_usd"] > 0


def test_what_a_person_decides_is_an_answer_like_any_other(tmp_path: Path, engine: Engine) -> None:
    engine.text, engine.logprob = '{"intent": "card_arrival"}', -3.0
    job = write(tmp_path, ask("a", response_format=SCHEMA), ask("b", response_format=SCHEMA))
    run(job, status=3)
    queue = tmp_path / "queue.jsonl"
    assert surelocal("review", "export", tmp_path / "run", queue).exit_code == 0
    rows = read_rows(queue)
    rows[0]["decision"] = {"intent": "lost_card"}
    queue.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    result = surelocal("review", "import", tmp_path / "run", queue, "--by", "Ann")
    assert result.exit_code == 3, result.stderr
    first, second = read_rows(tmp_path / "run" / "results.jsonl")
    found = completion(first)
    assert json.loads(found.choices[0].message.content or "") == {"intent": "lost_card"}
    assert found.model == "surelocal-human"
    assert second["error"]["code"] == "unsure"


# -- other formats -------------------------------------------------------------------------------


def test_other_formats_for_whoever_asks(tmp_path: Path, engine: Engine) -> None:
    job = write(tmp_path, ask("a"))
    run(job)
    for name, first in (("again.jsonl", '{"id": "batch_req_'), ("rows.csv", "id,status,value")):
        result = surelocal("export", tmp_path / "run", "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / name).read_text("utf-8").startswith(first)
    rows = run(job, "--set", "output.format=jsonl", at="plain")
    assert (rows[0]["id"], rows[0]["value"]) == ("a", "as you wish")


def test_any_records_may_go_out_as_a_batch_s_results(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "records.csv").write_text("id,message\n1,a\n", "utf-8")
    job = write(tmp_path, records={"path": "records.csv"}, prompt={"user": "{{ message }}"},
                answer="text", output={"format": "openai_batch"})  # fmt: skip
    [line] = run(job)
    assert line["custom_id"] == "1"
    assert completion(line).choices[0].message.content == "as you wish"
    assert line["surelocal"]["asked_for"] is None


def test_results_are_written_where_the_file_is_gone(tmp_path: Path, engine: Engine) -> None:
    job = write(tmp_path, ask("a"))
    run(job)
    (tmp_path / "batch.jsonl").unlink()
    assert surelocal("export", tmp_path / "run", "-o", tmp_path / "x.jsonl").exit_code == 0
    [line] = read_rows(tmp_path / "x.jsonl")
    assert completion(line).usage is not None
    assert line["surelocal"]["asked_for"] is None


@pytest.mark.slow
def test_the_demo_s_model_by_vllm_and_the_file_by_vllm_s_own_reader(tmp_path: Path) -> None:
    from vllm.entrypoints.launchers.run_batch import BatchRequestInput, BatchRequestOutput

    system = {"role": "system", "content": "Answer with the intent."}
    asked = [
        ask("a", messages=[system, USER], response_format=SCHEMA, max_tokens=40, seed=1),
        ask("b", messages=[system, USER], response_format=SCHEMA, temperature=0.7, top_p=0.9,
            stop=["}"], presence_penalty=0.5, max_completion_tokens=40),
        ask("c", messages=[system, USER], response_format=SCHEMA, max_tokens=1),
        ask("d", messages=[system, {**USER, "content": "x " * 5000}], response_format=SCHEMA),
    ]  # fmt: skip
    for line in asked:
        BatchRequestInput.model_validate(line)
    local = {"model": str(DEMO_MODEL), "engine_args": {"dtype": "float32"}, "cpu_threads": 1}
    lines = run(write(tmp_path, *asked, local=local, confidence={"threshold": 0}), status=3)
    answer = completion(lines[0])
    assert set(json.loads(answer.choices[0].message.content or "")) == {"intent"}
    assert answer.usage is not None and answer.usage.completion_tokens > 1
    # Its stop text ends the JSON too early, and max_tokens does.
    assert [line["error"] and line["error"]["code"] for line in lines[1:]] == [
        "invalid_answer", "invalid_answer", "too_long",
    ]  # fmt: skip
    for line in lines:
        found = BatchRequestOutput.model_validate(line)
        assert found.custom_id == line["custom_id"]
