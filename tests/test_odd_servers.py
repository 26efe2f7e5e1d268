"""Servers whose logprobs mean nothing: a run says so before it answers a record."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import surelocal
from tests.jobs import query, records, write_job

Logprob = Callable[[int, int], float]
"""Index of a token and the index at which the labels part → the logprob that is given."""


class Server(ThreadingHTTPServer):
    logprob: Logprob
    asked: list[str]


class Replies(BaseHTTPRequestHandler):
    """Answers with the first value that the schema allows, a character a token."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["messages"][-1]["content"])
        reply = json.dumps(self._reply(body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        text = "none of them"
        parts = 0
        if body.get("response_format"):
            [(field, rule)] = body["response_format"]["json_schema"]["schema"]["properties"].items()
            label, other = rule["enum"]
            text = json.dumps({field: label})
            parts = text.index(label) + next(
                i for i, (a, b) in enumerate(zip(label, other, strict=False)) if a != b
            )
        pieces = [*text, ""]
        content = [
            {"token": piece, "bytes": list(piece.encode()), "top_logprobs": [],
             "logprob": self.server.logprob(n, parts)}
            for n, piece in enumerate(pieces)
        ]  # fmt: skip
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": content},
        }
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                "choices": [choice]}  # fmt: skip

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Replies) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sound(index: int, parts: int) -> float:
    return math.log(0.95) if index == parts else -1e-6


@pytest.mark.parametrize(
    ("logprob", "said"),
    [
        (lambda index, parts: 0.0, "all exactly 0"),
        (lambda index, parts: -3.0, "before the answer's constraint"),
        (sound, None),
    ],
)
def test_logprobs_are_tried_before_the_first_record(
    tmp_path: Path, server: Server, logprob: Logprob, said: str | None
) -> None:
    server.logprob = logprob
    local = {
        "model": "m",
        "engine": "openai_server",
        "base_url": f"http://127.0.0.1:{server.server_address[1]}/v1",
    }
    rows = records(["R-1", "R-2"], "local")
    job = write_job(tmp_path / "job", "http://127.0.0.1:9", rows, local=local)
    run_dir = tmp_path / "run"
    options = ["--set", "escalation=null"]
    result = surelocal("run", job, "--run-dir", run_dir, *options)
    answered = [text for text in server.asked if "<R-" in text]
    if said is None:
        assert result.exit_code == 0 and len(answered) == 2, result.stderr
        return
    assert result.exit_code == 2
    assert said in result.stderr and "Traceback" not in result.stderr
    assert answered == [] and server.asked
    assert query(run_dir, "SELECT COUNT(*) FROM outcomes") == [(0,)]
