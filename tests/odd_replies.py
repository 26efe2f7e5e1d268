"""Replies that an OpenAI-compatible server may give and should not, and a raw server that gives
them, byte for byte.

`good` is a reply as it should be; `ODD` has some hundred others by name, each seen in public
reports or one turn away from those; `mutated` draws more.
"""

from __future__ import annotations

import copy
import json
import random
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server writes. ``head`` stands for the whole of status line and headers, where it
    is given; ``drip_s``: a byte at a time, with so long between."""

    body: bytes
    status: int = 200
    head: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drip_s: float = 0.0

    def whole(self) -> bytes:
        if self.head is not None:
            return self.head + self.body
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} X", *(f"{k}: {v}" for k, v in headers.items() if v)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def tokens(text: str, logprob: Callable[[int], float] = lambda at: -0.001 * (at + 1)) -> list[Any]:
    """The text's entries, a character each, and the end's."""
    return [
        {"token": piece, "bytes": list(piece.encode()), "logprob": logprob(at),
         "top_logprobs": [{"token": piece, "bytes": list(piece.encode()), "logprob": logprob(at)}]}
        for at, piece in enumerate([*text, ""])
    ]  # fmt: skip


def good(text: str, logprob: Callable[[int], float] = lambda at: -0.001 * (at + 1)) -> Any:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens(text, logprob)},
    }
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip


def answer_to(request: Mapping[str, Any]) -> str:
    """The first text that the request's constraint allows."""
    schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema:
        return json.dumps({name: rule["enum"][0] for name, rule in schema["properties"].items()})
    return str(request.get("structured_outputs", {}).get("choice", ["fine"])[0])


def record_of(request: Mapping[str, Any]) -> str | None:
    """The mark ``<…>`` of the record that a request is for."""
    found = re.search(r"<([^>]+)>", json.dumps(request["messages"]))
    return found[1] if found else None


# --- by name ---

VALUES: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**13,
    10**400,
    "",
    "five",
    "\ud800",
    [],
    {},
    [None],
    {"a": 1},
]


def _at(path: str, value: Any) -> Callable[[str], Reply]:
    """A good reply with another value at one place; a value of `...` takes the place away."""

    def made(text: str) -> Reply:
        body = good(text)
        *way, last = [int(k) if k.isdigit() else k for k in path.split(".")]
        at = body
        for key in way:
            at = at[key]
        if value is ...:
            del at[last]
        else:
            at[last] = value
        return Reply(json.dumps(body).encode("utf-8", "surrogatepass"))

    return made


def _raw(body: str | bytes, status: int = 200, **headers: str) -> Callable[[str], Reply]:
    content = body.encode() if isinstance(body, str) else body
    return lambda text: Reply(content, status, headers=headers)


def _text(change: Callable[[str], str | bytes]) -> Callable[[str], Reply]:
    """A good reply's JSON, changed as text."""

    def made(text: str) -> Reply:
        changed = change(json.dumps(good(text)))
        return Reply(changed.encode() if isinstance(changed, str) else changed)

    return made


def _error(status: int, said: Any) -> Callable[[str], Reply]:
    return _raw(json.dumps(said), status)


# The odd ones are none that a request could send back.
COOKIES = ("a=b", "a=\x01; Path=/", "a=\x7f", "a\xe9=\xff", f"a={'b' * 50_000}")


def _cookie(value: str) -> Callable[[str], Reply]:
    return lambda text: Reply(json.dumps(good(text)).encode(), headers={"Set-Cookie": value})


_PLACES = (
    "choices", "choices.0", "choices.0.message", "choices.0.message.content",
    "choices.0.finish_reason", "choices.0.logprobs", "choices.0.logprobs.content",
    "choices.0.logprobs.content.0", "choices.0.logprobs.content.0.token",
    "choices.0.logprobs.content.0.bytes", "choices.0.logprobs.content.0.logprob",
    "choices.0.logprobs.content.0.top_logprobs", "choices.0.logprobs.content.0.top_logprobs.0",
    "usage", "usage.prompt_tokens", "usage.completion_tokens", "model",
)  # fmt: skip

_STATUSES = (
    201, 204, 206, 400, 401, 402, 403, 404, 405, 410, 413, 415, 418, 422, 451, 500, 501, 505,
)  # fmt: skip

ODD: dict[str, Callable[[str], Reply]] = {
    **{f"{place} = {value!r:.20}": _at(place, value) for place in _PLACES for value in VALUES},
    **{f"no {place}": _at(place, ...) for place in _PLACES},
    "nothing": _raw(b""),
    "html": _raw("<html><body>502</body></html>"),
    "a list": _raw("[]"),
    "a number": _raw("7"),
    "null": _raw("null"),
    "bytes": _raw(b"\xff\xfe\x00\x80"),
    "deep": _raw("[" * 100_000),
    "deep and closed": _raw("[" * 500 + "]" * 500),
    "a deep answer": _text(lambda t: t[:-1] + ', "x": ' + "[" * 200 + "]" * 200 + "}"),
    "nan": _text(lambda t: re.sub(r'"logprob": [-.\d]+', '"logprob": NaN', t)),
    "infinity": _text(lambda t: re.sub(r'"logprob": [-.\d]+', '"logprob": -Infinity', t)),
    "overflow": _text(lambda t: re.sub(r'"logprob": [-.\d]+', '"logprob": -1e999', t)),
    "a BOM": _text(lambda t: b"\xef\xbb\xbf" + t.encode()),
    "half": _text(lambda t: t[: len(t) // 2]),
    "two bodies": _text(lambda t: t + t),
    "utf-16": _text(lambda t: t.encode("utf-16")),
    "duplicate keys": _text(lambda t: t[:-1] + ', "choices": []}'),
    "an error with status 200": _error(200, {"error": {"message": "something broke", "code": 500}}),
    "sglang's error": _error(200, {"object": "error", "message": "bad input", "code": 400}),
    "alternate": _error(400, {"error": {"message": "Conversation roles must alternate user/assi"}}),
    "too long": _error(400, {"message": "the prompt is longer than the model's context length"}),
    "out of range": _error(500, {"detail": "Out of range float values are not JSON compliant"}),
    "details": _error(422, {"detail": [{"loc": ["body"], "msg": "value is not a valid dict"}]}),
    "error is a text": _error(400, {"error": "no"}),
    "error is odd": _error(500, {"error": {"message": {"a": [1]}}}),
    "error is bytes": _raw(b"\xff\x00\x1b[31m", 500),
    "error is empty": _raw(b"", 500),
    "short": lambda text: Reply(b"{}", headers={"Content-Length": "1000"}),
    "long": lambda text: Reply(json.dumps(good(text)).encode(), headers={"Content-Length": "3"}),
    "no length": lambda text: replace(_text(str)(text), headers={"Content-Length": ""}),
    "odd length": lambda text: Reply(b"{}", headers={"Content-Length": "many"}),
    "gzip that is none": _raw(b"plain", **{"Content-Encoding": "gzip"}),
    "closed": lambda text: Reply(b"", head=b""),
    "no http": lambda text: Reply(b"", head=b"hello\r\n\r\n"),
    "half a head": lambda text: Reply(b"", head=b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "odd status": lambda text: Reply(b"", head=b"HTTP/1.1 abc OK\r\n\r\n"),
    "endless headers": lambda text: Reply(b"", head=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000),
    "chunks that are none": lambda text: Reply(
        b"zz\r\nxx\r\n", head=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    ),
    **{f"cookie {value!r}": _cookie(value) for value in COOKIES},
    **{f"status {status}": _raw("" if status == 204 else "{}", status) for status in _STATUSES},
    **{
        f"redirect {status}": _raw("", status, Location="http://127.0.0.1:9/v1/chat/completions")
        for status in (301, 302, 307, 308)
    },
}  # fmt: skip


def mutated(text: str, rng: random.Random) -> Reply:
    """A good reply with one to three odd turns, of its values or of its bytes."""
    if rng.random() < 0.2:
        return ODD[rng.choice(sorted(ODD))](text)
    body = good(text)
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(body))
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
        if not isinstance(body, dict) or not body:
            break
    content = bytearray(json.dumps(body).encode("utf-8", "surrogatepass"))
    if rng.random() < 0.2:
        at = rng.randrange(len(content))
        content[at : at + rng.randint(0, 5)] = rng.randbytes(rng.randint(0, 5))
    return Reply(bytes(content))


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from _holders(each)


# --- the server ---


class RawServer(socketserver.ThreadingTCPServer):
    """Answers a request whose record is in ``odd`` with what stands there, others well.

    ``asked`` are the records of the requests; None for one of no record.
    """

    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Raw)
        self.odd: dict[str, Callable[[str], Reply]] = {}
        self.usual: Callable[[dict[str, Any]], Reply] = lambda request: Reply(
            json.dumps(good(answer_to(request))).encode()
        )
        self.asked: list[str | None] = []
        self.stopping = threading.Event()
        self.open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def shut(self) -> None:
        """Stops, with every connection closed, as one that is killed does."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def reply(self, request: dict[str, Any]) -> Reply:
        name = record_of(request)
        self.asked.append(name)
        odd = self.odd.get(name or "")
        return odd(answer_to(request)) if odd else self.usual(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # the client went away


class _Raw(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        self.server.open.add(self.connection)
        try:
            while head := self._head():
                length = int(re.search(rb"content-length: (\d+)", head, re.I)[1])  # type: ignore[index]
                reply = self.server.reply(json.loads(self.rfile.read(length)))
                self._write(reply)
                if reply.head is not None or reply.headers.get("Content-Length") is not None:
                    return
        finally:
            self.server.open.discard(self.connection)

    def _head(self) -> bytes:
        head = b""
        while line := self.rfile.readline():
            head += line
            if line == b"\r\n":
                return head
        return b""

    def _write(self, reply: Reply) -> None:
        if not reply.drip_s:
            self.wfile.write(reply.whole())
            return
        for byte in reply.whole():
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if self.server.stopping.wait(reply.drip_s):
                return


@contextmanager
def raw_server(port: int = 0) -> Iterator[RawServer]:
    """A `RawServer` that runs, at a port that may just have been another's."""
    until = time.monotonic() + 5
    while True:
        try:
            server = RawServer(port)
            break
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shut()
        thread.join()
