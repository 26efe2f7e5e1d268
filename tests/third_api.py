"""A provider as a new one is written: all of its code, and `ENTRY`, its line of the table.

Nobody sells it, and it is like neither API of ours: it takes ``{"model", "most", "said": [[role,
text], …], "schema"}`` with its key in ``x-third-key``, and gives ``{"answer", "by", "read",
"wrote"}``. `Server` is that API, on loopback.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx2

from escalation.providers.protocol import Bill, Key, Reply, received, text_of, tokens
from escalation.providers.request_bytes import body_bytes
from escalation.providers.sdk_calls import verdict_of
from runner.job import Escalation
from runner.job.providers import Endpoint, Entry
from runner.types import Completion, Prompt, Usage

MODEL = "gemini-3.5-flash"
"""It sells a model that the price list has, and so says which of its sections is meant."""
ENTRY = Entry(
    "third",
    "tests.third_api:Third",
    "tests.third_api:ThirdWire",
    endpoints=(
        Endpoint("third", "https://api.third.example", MODEL, "THIRD_API_KEY", prices="gemini"),
    ),
)
READ, WROTE = 20, 5


class Third:
    def __init__(self, escalation: Escalation) -> None:
        self._escalation = escalation

    def request(self, prompt: Prompt) -> dict[str, Any]:
        return {
            "model": self._escalation.model,
            "most": self._escalation.max_tokens,
            "said": [[message.role, message.content] for message in prompt.messages],
            "schema": prompt.constraint.schema,
        }

    def completion(self, body: Mapping[str, Any]) -> Completion:
        return Completion(text_of(body, "answer") or "", text_of(body, "by") or "", "stop")

    def bill(self, body: Mapping[str, Any]) -> Bill:
        read, wrote = (tokens(body, name, needed=True) for name in ("read", "wrote"))
        return Bill(Usage(input_tokens=read, output_tokens=wrote))


class ThirdWire:
    def __init__(
        self, address: str, key_env: str | None, timeout_s: float, concurrency: int
    ) -> None:
        self._key, self._timeout = Key(key_env, address), timeout_s
        self._client = httpx2.AsyncClient(base_url=address)

    async def send(self, request: Mapping[str, Any]) -> Reply:
        try:
            call = self._client.post(
                "/ask", content=body_bytes(request), headers={"x-third-key": self._key.value}
            )
            got = await asyncio.wait_for(call, self._timeout)
        except Exception as error:
            return Reply("unknown", problem=self._key.line(f"{type(error).__name__}: {error}"))
        if got.status_code != 200:
            return Reply(verdict_of(got.status_code), problem=self._key.line(got.text))
        return received(got.content, got.headers.get("x-third-id"), None)

    async def aclose(self) -> None:
        await self._client.aclose()


class Server:
    """Answers each request with ``answer``; ``asked`` are the keys and bodies that came."""

    def __init__(self, answer: str, key: str) -> None:
        self.asked: list[tuple[str, bytes]] = []
        said = {"answer": answer, "by": f"{MODEL}-of-third", "read": READ, "wrote": WROTE}
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                given = self.headers["x-third-key"]
                asked.append((given, body))
                reply = json.dumps(said).encode() if given == key else b"who are you"
                self.send_response(200 if given == key else 401)
                self.send_header("content-length", str(len(reply)))
                self.send_header("x-third-id", f"third-{len(asked)}")
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
