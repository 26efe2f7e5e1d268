"""A run over a local server as it is: odd replies, restarts, refusals, logprobs that go wrong."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from runner.engines.openai_server.engine import OpenAIServerEngine
from runner.errors import EngineError, RecordError, SureLocalError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Message, Notice, Prompt, Reason, Sampling
from tests import local_fuzz
from tests.fakes import surelocal
from tests.jobs import query, records, rows_of, wait_until, write_job
from tests.odd_replies import (
    ODD,
    RawServer,
    Reply,
    answer_to,
    good,
    mutated,
    raw_server,
    record_of,
)

pytestmark = pytest.mark.process

LABELS = ("yes", "no")
End = Completion | SureLocalError


def error(status: int, said: str) -> Reply:
    return Reply(json.dumps({"error": {"message": said}}).encode(), status)


def well(request: dict[str, Any], logprob: Callable[[int], float] = lambda at: -1e-4) -> Reply:
    return Reply(json.dumps(good(answer_to(request), lambda at: logprob(at) * (at + 1))).encode())


def ends(server: RawServer, names: Sequence[str], **keys: Any) -> tuple[dict[str, End], list[str]]:
    """How each record's request ends, sixteen at once, and what the engine has said."""
    told: list[Notice] = []
    found: dict[str, End] = {}
    timeout_s = keys.pop("timeout_s", 5)
    at_once = keys.pop("at_once", 16)

    async def ask() -> None:
        local = Local(model="m", base_url=server.url, engine_args={"timeout_s": timeout_s}, **keys)
        engine, free = OpenAIServerEngine(local), asyncio.Semaphore(at_once)
        engine.hear(told.append)

        async def one(name: str) -> None:
            prompt = Prompt((Message("user", f"<{name}>"),), Constraint(labels=LABELS))
            async with free:
                try:
                    found[name] = await engine.generate(prompt, Sampling(top_logprobs=5))
                except SureLocalError as problem:
                    found[name] = problem

        await asyncio.gather(*(one(name) for name in names))
        await engine.aclose()

    asyncio.run(ask())
    return found, list(map(str, told))


def assert_usable(completion: Completion) -> None:
    """It can be checked, stored and counted."""
    completion.text.encode()
    completion.finish_reason.encode()
    assert 0 <= completion.usage.input_tokens <= 10**9
    assert 0 <= completion.usage.output_tokens <= 10**9
    if completion.logprobs is not None:
        assert "".join(completion.tokens) == completion.text
        assert len(completion.tokens) == len(completion.logprobs)
        assert all(-math.inf < p <= 1e-3 for p in completion.logprobs)
        assert not completion.top or len(completion.top) == len(completion.tokens)


def assert_odd_alone(found: dict[str, End], odd: set[str]) -> None:
    for name, end in found.items():
        if name not in odd:
            assert isinstance(end, Completion) and end.text == "yes" and end.logprobs, (name, end)
        elif isinstance(end, Completion):
            assert_usable(end)
        else:
            assert isinstance(end, RecordError), (name, end)
            assert end.reason in (Reason.SERVER_FAILED, Reason.BAD_PROMPT, Reason.TOO_LONG)
            assert str(end).isprintable()


# --- odd replies ---


def test_each_odd_reply_is_its_record_s_alone() -> None:
    odd = {f"O-{number}": made for number, made in enumerate(ODD.values())}
    assert len(odd) > 250
    with raw_server() as server:
        server.odd = odd
        found, _ = ends(server, [name for odd in odd for name in (odd, f"good-{odd}")], at_once=48)
    assert_odd_alone(found, set(odd))
    by_name = {name: found[f"O-{number}"] for number, name in enumerate(ODD)}
    for name in ("nothing", "html", "nan", "choices = []", "out of range", "alternate", "short"):
        end = by_name[name]
        refused = isinstance(end, RecordError) and end.reason == Reason.SERVER_FAILED
        assert refused or (name == "nan" and isinstance(end, Completion) and end.logprobs is None)
    # What is only counted does not keep an answer from standing.
    for name, end in by_name.items():
        if name.startswith(("usage", "no usage", "model", "no model")):
            assert isinstance(end, Completion) and (end.text, bool(end.logprobs)) == ("yes", True)


@pytest.mark.parametrize("seed", range(3))
def test_drawn_replies_neither_raise_nor_hang(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"O-{number}" for number in range(80)]
    with raw_server() as server:
        drawn = {name: mutated("yes", rng) for name in names}
        server.odd = {name: lambda text, reply=reply: reply for name, reply in drawn.items()}  # type: ignore[misc]
        found, _ = ends(server, [name for odd in names for name in (odd, f"good-{odd}")])
    assert_odd_alone(found, set(names))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}], "yes"),
        (["y", "es"], "yes"),
    ],
)
def test_contents_of_other_shapes(content: Any, text: str) -> None:
    body = good("yes")
    body["choices"][0]["message"] = {"content": content, "reasoning": 5, "reasoning_content": "hm"}
    with raw_server() as server:
        server.usual = lambda request: Reply(json.dumps(body).encode())
        found, _ = ends(server, ["a"])
    end = found["a"]
    assert isinstance(end, Completion)
    assert (end.text, end.reasoning, bool(end.logprobs)) == (text, "hm", text == "yes")


def test_a_server_that_only_streams() -> None:
    def streamed(request: dict[str, Any]) -> Reply:
        [choice] = good("yes")["choices"]
        begun = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        events: list[dict[str, Any]] = [{"choices": [begun]}]
        for piece, entry in zip("yes", choice["logprobs"]["content"], strict=False):
            part = {"index": 0, "delta": {"content": piece}, "logprobs": {"content": [entry]}}
            events.append({"choices": [part]})
        ended = record_of(request) != "cut"
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]} if ended
                      else {"choices": []})  # fmt: skip
        events.append({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}})
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        body = "".join([": hello\n\n", *lines, "data: [DONE]\n\n"]).encode()
        return Reply(body, headers={"Content-Type": "text/event-stream"})

    with raw_server() as server:
        server.usual = streamed
        found, _ = ends(server, ["a", "cut"])
    end = found["a"]
    assert isinstance(end, Completion)
    assert (end.text, end.tokens, end.usage.output_tokens) == ("yes", ("y", "e", "s"), 3)
    assert "ended before its answer did" in str(found["cut"])


def test_a_reply_that_drips_is_given_up_in_time() -> None:
    with raw_server() as server:
        server.odd = {"slow": lambda text: Reply(json.dumps(good(text)).encode(), drip_s=0.02)}
        began = time.monotonic()
        found, _ = ends(server, ["slow", *"abcd"], timeout_s=0.4)
        assert time.monotonic() - began < 8
    assert_odd_alone(found, {"slow"})
    assert "no whole answer within 0.4 s" in str(found["slow"])


def test_no_redirect_is_followed() -> None:
    with raw_server() as server, raw_server() as elsewhere:
        place = f"{elsewhere.url}/chat/completions"
        server.usual = lambda request: Reply(b"", 307, headers={"Location": place})
        found, _ = ends(server, ["a"])
        assert elsewhere.asked == []
    assert isinstance(found["a"], UsageError) and "no redirect is followed" in str(found["a"])


# --- whose fault it is ---


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (error(400, "unknown parameter: top_k_2"), UsageError, "unknown parameter: top_k_2"),
        (error(404, "the model `m` does not exist"), UsageError, "the model `m` does not exist"),
        (error(401, "wrong key"), UsageError, "refuses the key"),
        (error(500, "CUDA error"), EngineError, "CUDA error"),
        (Reply(b"{}"), EngineError, "`choices` is null"),
        (Reply(b"<html>"), EngineError, "not JSON"),
    ],
)
def test_what_is_said_to_whatever_is_asked_ends_it(
    reply: Reply, kind: type[SureLocalError], words: str
) -> None:
    with raw_server() as server:
        server.usual = lambda request: reply
        found, _ = ends(server, [f"R-{number}" for number in range(40)])
        assert len(server.asked) < 30
    assert {type(end) for end in found.values()} == {kind}
    assert words in str(found["R-0"])


def test_what_every_record_runs_into_is_no_record_s_fault() -> None:
    """Our own question is answered, and none of theirs is."""
    with raw_server() as server:
        server.usual = lambda request: (
            well(request) if record_of(request) is None else error(400, "System role not supported")
        )
        found, _ = ends(server, [f"R-{number}" for number in range(200)], at_once=64)
        assert len(server.asked) < 150
    assert {type(end) for end in found.values()} == {UsageError}  # none is set aside
    assert "System role not supported" in str(found["R-7"])


def test_a_record_that_the_server_dies_of_is_found() -> None:
    """All of its connections break, whoever's they are."""

    def deadly(text: str) -> Reply:
        for each in list(server.open):
            each.close()
        return Reply(b"", head=b"")

    with raw_server() as server:
        server.odd = {"deadly": deadly}
        slow = threading.Event()
        server.usual = lambda request: (slow.wait(0.02), well(request))[1]
        found, _ = ends(server, ["deadly", *(f"R-{number}" for number in range(60))])
    assert_odd_alone(found, {"deadly"})
    assert isinstance(found["deadly"], RecordError)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_full_or_loading_is_waited_for(status: int) -> None:
    with raw_server() as server:
        ready = time.monotonic() + 1.5
        server.usual = lambda request: (
            well(request) if time.monotonic() > ready else error(status, "Loading model")
        )
        found, said = ends(server, [f"R-{number}" for number in range(30)])
    assert_odd_alone(found, set())
    assert re.search(r"does not answer \(Loading model\): it is waited for, up to 300 s", said[0])
    assert said[1].endswith("answers again")


# --- logprobs that go wrong later ---


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        (lambda at: 0.0, "all exactly 0"),
        (lambda at: -0.7, "the same logprob"),
        (lambda at: 0.5, "gives an answer no logprobs"),
        (lambda at: None, "gives an answer no logprobs"),
    ],
)
def test_logprobs_that_turn_bad_are_noticed(spoilt: Any, words: str) -> None:
    with raw_server() as server:
        server.usual = lambda request: (
            well(request)
            if len(server.asked) <= 20
            else Reply(json.dumps(good(answer_to(request), spoilt)).encode())
        )
        found, said = ends(server, [f"R-{number}" for number in range(60)])
    sure = [end for end in found.values() if isinstance(end, Completion) and end.logprobs]
    assert len(sure) == 20 and all(isinstance(end, Completion) for end in found.values())
    assert len(said) == 1 and words in said[0]


def test_an_answer_that_is_certain_to_the_last_bit_stands() -> None:
    """The self-test says that the zeros are the model's."""
    with raw_server() as server:

        def reply(request: dict[str, Any]) -> Reply:
            text = answer_to(request)
            forced = record_of(request) is None and "-" in text
            chosen = text.rindex("-") + 1 if forced else -1
            return Reply(json.dumps(good(text, lambda at: -0.05 if at == chosen else 0.0)).encode())

        server.usual = reply
        found, said = ends(server, [f"R-{number}" for number in range(20)])
    assert said == []
    assert all(isinstance(end, Completion) and end.logprobs for end in found.values())


# --- whole runs ---


def job_at(url: str, folder: Path, count: int, **local: Any) -> Path:
    rows = records([f"R-{number}" for number in range(count)], "local")
    given = {"model": "m", "engine": "openai_server", "base_url": url, "window": 16, **local}
    return write_job(folder, "http://127.0.0.1:9", rows, local=given)


def run(job: Path) -> Result:
    options = ("--set", "escalation=null", "--set", "confidence={threshold: 0.1}")
    return surelocal("run", job, "--run-dir", job.parent / "run", *options)


def test_a_run_over_odd_replies_ends_with_its_results(tmp_path: Path) -> None:
    names = ("choices = []", "out of range", "alternate", "html", "closed", "deep", "nan", "half")
    with raw_server() as server:
        server.odd = {f"R-{3 * number}": ODD[name] for number, name in enumerate(names)}
        job = job_at(server.url, tmp_path / "job", 60)
        first = run(job)
        asked = len(server.asked)
        rows = (job.parent / "run" / "results.jsonl").read_bytes()
        again = run(job)
        assert [name for name in server.asked[asked:] if name] == []
    assert (first.exit_code, again.exit_code) == (3, 3), first.stderr
    assert "Traceback" not in first.stderr + again.stderr
    assert (job.parent / "run" / "results.jsonl").read_bytes() == rows
    by_id = rows_of(job.parent / "run")
    for number in range(60):
        row = by_id[f"R-{number}"]
        odd = f"R-{number}" in server.odd and names[number // 3] != "nan"
        assert (row["status"] == "error") == odd
        if odd:
            assert row["reason"] == "server_failed" and "not this one" in row["error"]


@pytest.mark.parametrize("kind", ["schema", "text"])
def test_mutated_replies_spoil_their_own_records_alone(kind: str, tmp_path: Path) -> None:
    local_fuzz.hold(kind, 1, 80, tmp_path)


@contextmanager
def restarting(
    job: Callable[[str], Path], away_s: float
) -> Iterator[tuple[Path, list[str | None]]]:
    """A server that is stopped once it was asked thirty times, and started again."""
    asked: list[str | None] = []
    began, over = threading.Event(), threading.Event()
    address: list[str] = []

    def serve() -> None:
        with raw_server() as server:
            server.asked = asked
            server.usual = lambda request: (over.wait(0.02), well(request))[1]
            address.append(server.url)
            began.set()
            wait_until(lambda: len(asked) > 30)
            port = server.server_address[1]
        over.wait(away_s)
        with raw_server(port) as server:
            server.asked = asked
            over.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    began.wait(10)
    try:
        yield job(address[0]), asked
    finally:
        over.set()
        thread.join()


def test_a_server_that_still_loads_is_waited_for_before_the_first_record(tmp_path: Path) -> None:
    with raw_server() as server:
        ready = time.monotonic() + 1.0
        server.usual = lambda request: (
            well(request) if time.monotonic() > ready else error(503, "Loading model")
        )
        result = run(job_at(server.url, tmp_path / "job", 5))
    assert result.exit_code == 0, result.stderr
    assert "does not answer (Loading model): it is waited for" in " ".join(result.stderr.split())


def test_a_restart_of_the_server_is_waited_for(tmp_path: Path) -> None:
    with restarting(lambda url: job_at(url, tmp_path / "job", 120), 2.0) as (job, asked):
        result = run(job)
    assert result.exit_code == 0, result.stderr
    assert "it is waited for, up to 300 s" in result.stderr and "answers again" in result.stderr
    assert len(asked) > 120
    assert {row["status"] for row in rows_of(job.parent / "run").values()} == {"done"}


def test_a_server_that_stays_away_ends_the_run_and_the_next_goes_on(tmp_path: Path) -> None:
    with raw_server() as server:
        port = server.server_address[1]
        job = job_at(server.url, tmp_path / "job", 120, server_wait_s=0.5)

        def stop() -> None:
            wait_until(lambda: len(server.asked) > 40)
            server.shut()

        stopped = threading.Thread(target=stop)
        stopped.start()
        result = run(job)
        stopped.join()
    assert result.exit_code == 1
    assert "start it again, or raise local.server_wait_s; what was answered is kept" in (
        " ".join(result.stderr.split())
    )
    [(known,)] = query(job.parent / "run", "SELECT COUNT(*) FROM outcomes")
    assert 0 < known < 120
    with raw_server(port) as server:
        assert run(job).exit_code == 0
        assert len({name for name in server.asked if name}) == 120 - known
