"""The three local engines on the demo model: real vLLM, real transformers, a real vLLM server."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from runner.check import Checker
from runner.engines.openai_server import OpenAIServerEngine
from runner.engines.transformers import TransformersEngine
from runner.engines.vllm import VllmEngine
from runner.errors import EngineError, LocalFirstError, RecordError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Engine, Message, Prompt, Reason, Sampling

pytestmark = [
    pytest.mark.slow,
    # vLLM's own call of xgrammar; under `error` no grammar would compile.
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "demo"
MODEL = str(DEMO / "model")
DOMAINS = json.loads((DEMO / "clinc150" / "domains.json").read_text("utf-8"))
INTENTS = tuple(intent for intents in DOMAINS.values() for intent in intents)
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": list(INTENTS)}, "domain": {"enum": list(DOMAINS)}},
    "required": ["intent", "domain"],
    "additionalProperties": False,
}
AS_JSON = Constraint(schema=SCHEMA)
AS_JSON_SYSTEM = "Answer with the intent and the domain of the customer's message as JSON."
LABEL_SYSTEM = "Answer with the intent of the customer's message."
GREEDY = Sampling(temperature=0.0, max_tokens=64)
KEY = "a-key-of-the-tests"
KEY_ENV = "LOCALFIRST_TEST_SERVER_KEY"
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


def messages(count: int) -> list[str]:
    with (DEMO / "records.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        rows = (row for row in csv.DictReader(file) if None not in row)  # too many cells
        good = (row["message"] for row in rows if row["kind"] == "message" and row["message"])
        return list(itertools.islice((text for text in good if "\ufffd" not in text), count))


def prompts(texts: Sequence[str], constraint: Constraint = AS_JSON) -> list[Prompt]:
    system = AS_JSON_SYSTEM if constraint.schema else LABEL_SYSTEM
    return [
        Prompt((Message("system", system), Message("user", text)), constraint) for text in texts
    ]


class Server:
    """Where the server is; `ask` connects to it."""

    window = 64

    def __init__(self, url: str, model: str = "demo") -> None:
        self._local = Local(model=model, base_url=url, api_key_env=KEY_ENV)

    def connect(self) -> OpenAIServerEngine:
        return OpenAIServerEngine(self._local)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        [completion] = await ask(self, [prompt], sampling)
        return completion

    async def aclose(self) -> None:
        pass


async def ask(engine: Engine, asked: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    # A connection belongs to its event loop, and each test has its own.
    used = engine.connect() if isinstance(engine, Server) else engine
    try:
        return list(await asyncio.gather(*(used.generate(p, sampling) for p in asked)))
    finally:
        if used is not engine:
            await used.aclose()


def answers(
    engine: Engine, asked: Sequence[Prompt], sampling: Sampling = GREEDY
) -> list[Completion]:
    return asyncio.run(ask(engine, asked, sampling))


# --- the engines, each loaded once ---


@pytest.fixture(scope="session")
def server_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server starts while the other engines load; `server` waits for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The `vllm` command asks for a distribution of that name, which the CPU build is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL]
    command += ["--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--generation-config", "vllm"]
    command += ["--logprobs-mode", "processed_logprobs", "--max-num-seqs", "64"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, **CPU, "VLLM_API_KEY": KEY}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            # The engine core is a process of its own, of the same session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def server_url(server_process: str) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urlopen(f"{server_process}/health", timeout=5):
                return f"{server_process}/v1"
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server did not start within two minutes")


@pytest.fixture
def server(server_url: str, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(KEY_ENV, KEY)
    return Server(server_url)


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VllmEngine]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    arguments = {"dtype": "float32", "max_num_seqs": 64}
    engine = VllmEngine(MODEL, Local(model=MODEL, engine_args=arguments, cpu_threads=1))
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(scope="session")
def transformers_engine() -> Iterator[TransformersEngine]:
    local = Local(model=MODEL, engine_args={"dtype": "float32"}, cpu_threads=1)
    engine = TransformersEngine(MODEL, local)
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(params=["vllm", "transformers", "server"])
def engine(request: pytest.FixtureRequest) -> Engine:
    names = {"vllm": "vllm_engine", "transformers": "transformers_engine", "server": "server"}
    made: Engine = request.getfixturevalue(names[request.param])
    return made


# --- the same answers, with the same confidence ---


def test_three_engines_agree(
    server_process: str,
    vllm_engine: VllmEngine,
    transformers_engine: TransformersEngine,
    server: Server,
) -> None:
    asked = prompts(messages(200))
    checker = Checker(AS_JSON)
    first, *others = (
        [checker.check(completion) for completion in answers(engine, asked)]
        for engine in (vllm_engine, transformers_engine, server)
    )
    assert all(answer.valid for answer in first)
    for other in others:
        same = [(a, b) for a, b in zip(first, other, strict=True) if a.value == b.value]
        apart = [
            abs(a.field_confidence[field] - b.field_confidence[field])
            for a, b in same
            for field in ("intent", "domain")
        ]
        assert len(same) >= 0.99 * len(asked)
        assert median(apart) < 1e-3
        assert sum(each > 1e-3 for each in apart) <= 4


def test_labels_agree(vllm_engine: VllmEngine, transformers_engine: TransformersEngine) -> None:
    asked = prompts(messages(40), Constraint(labels=INTENTS))
    of_vllm, of_transformers = (answers(e, asked) for e in (vllm_engine, transformers_engine))
    assert {completion.text for completion in of_vllm} <= set(INTENTS)
    assert [c.text for c in of_vllm] == [c.text for c in of_transformers]
    for one, other in zip(of_vllm, of_transformers, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert one.usage == other.usage


# --- what every engine holds to ---


def test_pieces_join_to_the_text(engine: Engine) -> None:
    labels = Constraint(labels=("naïve 😀 Ω", '日本 "quoted"\n\\', "card_declined"))
    for completion in answers(engine, [*prompts(messages(20)), *prompts(messages(20), labels)]):
        assert "".join(completion.tokens) == completion.text
        assert completion.finish_reason == "stop"
        assert completion.tokens[-1] == ""
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.tokens) == completion.usage.output_tokens
        assert all(math.isfinite(logprob) and logprob <= 0 for logprob in completion.logprobs)


@pytest.mark.parametrize("text", ["naïve 😀 Ω", '日本 "quoted"\n\\'])
def test_a_label_of_many_bytes_comes_back_whole(engine: Engine, text: str) -> None:
    [completion] = answers(engine, prompts(["x"], Constraint(labels=(text, text + "!"))))
    assert completion.text.rstrip("!") == text
    assert "".join(completion.tokens) == completion.text


def test_logprobs_are_after_the_constraint(engine: Engine) -> None:
    [asked] = prompts(["yes or no"], Constraint(labels=("yes", "no")))
    found: dict[str, float] = {}
    for seed in range(64):
        [completion] = answers(engine, [asked], Sampling(temperature=1.0, max_tokens=8, seed=seed))
        found[completion.text] = math.exp(math.fsum(completion.logprobs or ()))
        if len(found) == 2:
            break
    assert set(found) == {"yes", "no"}
    assert sum(found.values()) == pytest.approx(1.0, abs=0.02)


def test_an_answer_cut_off_says_so(engine: Engine) -> None:
    [completion] = answers(engine, prompts(["my card was declined"]), Sampling(max_tokens=4))
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 4
    assert "".join(completion.tokens) == completion.text


def test_a_prompt_too_long_spoils_its_record_alone(engine: Engine) -> None:
    good, long = prompts(["my card was declined", "hello card " * 600])

    async def both() -> list[Completion | BaseException]:
        asked = (engine.generate(prompt, GREEDY) for prompt in (long, good))
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, answered = asyncio.run(both())
    assert isinstance(refused, RecordError)
    assert refused.reason == Reason.BAD_PROMPT
    assert "512" in str(refused)
    assert "tokens" in str(refused)
    assert isinstance(answered, Completion)


# --- determinism ---


def test_vllm_answers_do_not_depend_on_the_order(vllm_engine: VllmEngine) -> None:
    asked = prompts(messages(100))
    straight = answers(vllm_engine, asked)
    back = answers(vllm_engine, asked[::-1])[::-1]
    assert [c.logprobs for c in straight] == [c.logprobs for c in back]
    assert [c.text for c in straight] == [c.text for c in back]


def test_transformers_draws_do_not_depend_on_the_batch(
    transformers_engine: TransformersEngine,
) -> None:
    asked = prompts(messages(24), Constraint(labels=INTENTS))
    drawn = Sampling(temperature=2.0, max_tokens=32, seed=7, extra={"top_k": 50, "top_p": 0.95})
    together = answers(transformers_engine, asked, drawn)
    alone = [answers(transformers_engine, [prompt], drawn)[0] for prompt in asked]
    assert [c.text for c in together] == [c.text for c in alone]


# --- reasoning ---


@pytest.fixture(scope="session")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo model with two of the tokens that it says in JSON renamed to think tags: it thinks
    `intent": "…` and answers ` "domain": "…"}`."""
    folder = tmp_path_factory.mktemp("thinker")
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    renamed = {'{"': "<think>", '",': "</think>"}
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    kept = [p for p in pairs if not renamed.keys() & {*p, "".join(p)}]
    tokenizer["model"]["merges"] = [list(pair) for pair in kept]
    for old, new in renamed.items():
        vocabulary[new] = vocabulary.pop(old)
        added = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": vocabulary[new], "content": new, **added})
    path.write_text(json.dumps(tokenizer), "utf-8")
    return str(folder)


@pytest.mark.parametrize("make", [TransformersEngine, VllmEngine])
def test_a_thinking_model(make: Callable[[str, Local], Engine], thinking_model: str) -> None:
    arguments = {"dtype": "float32"}
    local = Local(
        model="thinker", engine_args=arguments, cpu_threads=1, reasoning_parser="deepseek_r1"
    )
    engine = make(thinking_model, local)
    messages_ = (Message("system", AS_JSON_SYSTEM), Message("user", "my card was declined"))
    free = Prompt(messages_)
    held = Prompt(messages_, Constraint(labels=INTENTS))
    [of_free, of_held] = answers(engine, [free, held])
    [cut] = answers(engine, [free], Sampling(max_tokens=5))
    asyncio.run(engine.aclose())
    assert of_free.text == ' "domain": "credit_cards"}'
    assert of_held.text in INTENTS  # the grammar starts with the answer, not with the thinking
    for completion in (of_free, of_held):
        assert completion.reasoning == 'intent": "card_declined'
        assert "".join(completion.tokens) == completion.text
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.tokens) < completion.usage.output_tokens
    assert (cut.text, cut.finish_reason, cut.logprobs) == ("", "length", None)


def test_a_model_that_cannot_think(tmp_path: Path) -> None:
    local = Local(model=MODEL, reasoning_parser="deepseek_r1")
    with pytest.raises(UsageError, match=r"local\.reasoning_parser: .*think"):
        TransformersEngine(MODEL, local)


# --- sentences ---


def test_an_unknown_engine_argument_has_a_suggestion() -> None:
    for make, near in ((VllmEngine, "max_num_seq"), (TransformersEngine, "attn_implementatio")):
        with pytest.raises(UsageError, match=rf"`{near}`; did you mean `{near}"):
            make(MODEL, Local(model=MODEL, engine_args={near: 1}))


@pytest.mark.parametrize("make", [VllmEngine, TransformersEngine])
def test_a_folder_that_is_no_model(make: Callable[[str, Local], Engine], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"cannot load {tmp_path}: .*") as raised:
        make(str(tmp_path), Local(model=str(tmp_path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, "many", True])
def test_a_batch_size_that_is_none(size: object) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        TransformersEngine(MODEL, Local(model=MODEL, engine_args={"batch_size": size}))


def test_an_unknown_sampling_key_stops_nothing_else(
    transformers_engine: TransformersEngine,
) -> None:
    asked = prompts(["my card was declined"])
    with pytest.raises(UsageError, match=r"no `top_kk`; did you mean `top_k`"):
        answers(transformers_engine, asked, Sampling(extra={"top_kk": 3}))
    assert answers(transformers_engine, asked)[0].finish_reason == "stop"


def test_a_schema_that_no_grammar_holds_stops_nothing_else(
    transformers_engine: TransformersEngine,
) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "pattern": "(("}}}
    with pytest.raises(UsageError, match="answer: xgrammar cannot hold a model to this: Regex"):
        answers(transformers_engine, prompts(["x"], Constraint(schema=schema)))
    assert answers(transformers_engine, prompts(["x"]))[0].finish_reason == "stop"


def test_a_model_that_dies_fails_all_that_wait(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    # A token that the model has no row for.
    tokenizer["added_tokens"].append(
        {**tokenizer["added_tokens"][0], "id": 9000, "content": "<|lost|>"}
    )
    path.write_text(json.dumps(tokenizer), "utf-8")
    arguments = {"dtype": "float32", "batch_size": 2}
    engine = TransformersEngine(str(tmp_path), Local(model="m", engine_args=arguments))

    async def use() -> list[Completion | BaseException]:
        asked = [engine.generate(p, GREEDY) for p in prompts(["x", "x", "<|lost|>", "x", "x", "x"])]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EngineError, match="transformers stopped"):
            await engine.generate(prompts(["x"])[0], GREEDY)
        await engine.aclose()
        return ended

    ended = asyncio.run(use())
    assert all(isinstance(each, EngineError) for each in ended[2:])
    assert str(ended[-1]) == "transformers stopped: index out of range in self"


@pytest.mark.parametrize(
    ("engine_class", "package"),
    [
        ("vllm.VllmEngine", "vllm"),
        ("transformers.TransformersEngine", "transformers"),
        ("transformers.TransformersEngine", "accelerate"),
    ],
)
def test_a_missing_package_has_its_mend(engine_class: str, package: str) -> None:
    module, name = engine_class.split(".")
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from runner.engines.{module} import {name}\n"
        "from runner.errors import MissingExtra\nfrom runner.job import Local\n"
        f"try:\n    {name}('m', Local(model='m'))\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert package in ran.stdout
    assert "is not installed; install it with `make setup STACK=" in ran.stdout
    assert "`pip install 'localfirst[" in ran.stdout


def test_closing_transformers_ends_what_is_in_flight() -> None:
    async def close() -> list[Completion | BaseException]:
        local = Local(model=MODEL, engine_args={"dtype": "float32", "batch_size": 2})
        engine = TransformersEngine(MODEL, local)
        tasks = [asyncio.create_task(engine.generate(p, GREEDY)) for p in prompts(messages(30))]
        await tasks[0]
        await engine.aclose()
        with pytest.raises(EngineError, match="closed"):
            await engine.generate(prompts(["x"])[0], GREEDY)
        return await asyncio.gather(*tasks, return_exceptions=True)

    ended = asyncio.run(close())
    assert isinstance(ended[0], Completion)
    assert isinstance(ended[-1], EngineError)


# --- the server ---


def refusal(engine: Engine) -> LocalFirstError:
    with pytest.raises(LocalFirstError) as raised:
        answers(engine, prompts(["my card was declined"]))
    return raised.value


def test_no_server_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    error = refusal(Server(address))
    assert isinstance(error, EngineError)
    assert f"no server answers at {address}" in str(error)
    assert "vllm serve demo" in str(error)


def test_a_server_has_no_such_model(server: Server, server_url: str) -> None:
    error = refusal(Server(server_url, model="another"))
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"the server at {server_url} refuses")
    assert "`another`" in str(error)


def test_a_server_that_refuses_the_key(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "another-key")
    error = refusal(Server(server_url))
    assert isinstance(error, UsageError)
    assert KEY_ENV in str(error)
    assert "another-key" not in str(error)


def test_an_address_without_v1(server: Server, server_url: str) -> None:
    error = refusal(Server(server_url.removesuffix("/v1")))
    assert isinstance(error, UsageError)
    assert "/v1" in str(error)


# --- what other servers reply ---


class Replies(BaseHTTPRequestHandler):
    """Gives the one reply that its server holds."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, reply = self.server.reply  # type: ignore[attr-defined]
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def replying(reply: object, status: int = 200) -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        server.reply = (status, reply)  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{server.server_address[1]}/v1")
        finally:
            server.shutdown()
            thread.join()


def reply(text: str, pieces: Sequence[str | bytes] | None, **message: str) -> dict[str, object]:
    content: list[dict[str, object]] = [
        {"token": p, "bytes": None, "logprob": -float(i), "top_logprobs": []}
        if isinstance(p, str)
        else {"token": "?", "bytes": list(p), "logprob": -float(i), "top_logprobs": []}
        for i, p in enumerate(pieces or ())
    ]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, **message},
        "logprobs": None if pieces is None else {"content": content},
    }
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.mark.parametrize(
    ("text", "given", "tokens", "first"),
    [
        ("yes", [b"y", b"es"], ("y", "es"), 0),
        ("yes", [b"y", b"es", b"<end>"], ("y", "es", ""), 0),
        ("yes", ["y", "es", ""], ("y", "es", ""), 0),
        ("yes", [b"<think>", b"yes", b"</think>", b"\n\nyes", b"<end>"], ("yes", ""), 3),
        ("naïf", [b"na\xc3", b"\xaf", b"f"], ("na", "ï", "f"), 0),
        ("ïf", [b"", "ï".encode(), b"f", b"<end>"], ("", "ï", "f", ""), 0),
        ("😀", [b"\xf0\x9f", b"\x98\x80", b"<end>"], ("", "😀", ""), 0),
        ("", [b"<end>"], ("",), 0),
    ],
)
def test_pieces_of_many_servers(
    text: str, given: list[str | bytes], tokens: tuple[str, ...], first: int
) -> None:
    with replying(reply(text, given, reasoning_content="hm")) as server:
        [completion] = answers(server, prompts(["x"]))
    assert completion.tokens == tokens
    assert "".join(completion.tokens) == completion.text == text
    assert completion.logprobs == tuple(-float(i) for i in range(first, len(given)))
    assert completion.reasoning == "hm"


@pytest.mark.parametrize("given", [None, [], [b"no", b"<end>"], [b"yes", b"<end>", b"<end>"]])
def test_logprobs_that_are_missing_or_of_something_else(given: list[str | bytes] | None) -> None:
    with replying(reply("yes", given)) as server:
        [completion] = answers(server, prompts(["x"]))
    assert completion.text == "yes"
    assert (completion.tokens, completion.logprobs) == ((), None)


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, {"error": {"message": "exceeds the available context size"}}, RecordError, "context"),
        (400, {"message": "The input is longer than the limit"}, RecordError, "longer"),
        (400, {"error": {"message": "no such thing\nat line 3"}}, UsageError, "no such thing"),
        (403, {"error": {"message": f"bad key {KEY}"}}, UsageError, KEY_ENV),
        (200, {"hello": "there"}, EngineError, "/v1"),
    ],
)
def test_what_servers_refuse(
    status: int,
    body: object,
    kind: type[LocalFirstError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    with replying(body, status) as server:
        error = refusal(server)
    assert type(error) is kind
    assert said in str(error)
    assert KEY not in str(error)
    assert "\n" not in str(error)
