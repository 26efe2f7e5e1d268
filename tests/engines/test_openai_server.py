"""A server that speaks OpenAI's chat API: vLLM's own, and what others reply."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runner.errors import EngineError, RecordError, SureLocalError, UsageError
from runner.types import Engine, Sampling
from tests.engines.asking import KEY, KEY_ENV, SLOW, Server, answers, prompts

pytestmark = SLOW

# --- the server ---


def refusal(engine: Engine) -> SureLocalError:
    with pytest.raises(SureLocalError) as raised:
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
    kind: type[SureLocalError],
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


def test_alternatives_of_a_server() -> None:
    def option(text: bytes, logprob: float) -> dict[str, object]:
        return {"token": text.decode("utf-8", "replace"), "bytes": list(text), "logprob": logprob}

    tops = [
        [option(b"</think>\n", -1.0)],
        [option(b"\nyes", -0.5), option(b"\ny", -0.1), option(b"no", -9999.0)],
        [option(b"<end>", -0.2), option(b"!", -2.0), option("ï".encode()[:1], -3.0)],
    ]
    content = [{**options[0], "top_logprobs": options} for options in tops]
    whole = reply("yes", [])
    choice: Any = whole["choices"]
    choice[0]["logprobs"] = {"content": content}
    with replying(whole) as server:
        [completion] = answers(server, prompts(["x"]), Sampling(top_logprobs=3))
    assert completion.tokens == ("yes", "")
    assert completion.top == ((("y", -0.1), ("yes", -0.5)), (("", -0.2), ("!", -2.0), ("�", -3.0)))


def test_a_server_that_answers_once_is_asked_again() -> None:
    with replying(reply("yes", None)) as server:
        [completion] = answers(server, prompts(["x"]), Sampling(temperature=1.0, n=3))
    assert completion.samples == ("yes", "yes", "yes")
