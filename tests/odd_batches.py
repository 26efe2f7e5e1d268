"""Both providers' batches, done at once, with any bytes for a result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.odd_api import Odd
from tests.stand_in.wire import Call

_MARK = re.compile(r"<R-(\d+)>")


class Batches:
    """``result`` makes a record's reply body. ``created`` counts the requests that came."""

    def __init__(self, provider: str, result: Callable[[int], bytes]) -> None:
        self._result = result
        self._claude = provider == "anthropic"
        self._files: dict[str, list[dict[str, Any]]] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self.created = 0
        self._host = ""

    def reply(self, call: Call) -> Odd:
        self._host = call.headers.get("host", "")
        made = self._of_claude(call) if self._claude else self._of_openai(call)
        return made if isinstance(made, Odd) else Odd(json.dumps(made).encode())

    def _of_claude(self, call: Call) -> Any:
        *_, last = call.path.split("/")
        if call.method == "POST":
            parts = json.loads(call.body)["requests"]
            return self._made([(part["custom_id"], part["params"]) for part in parts])
        if last == "results":
            return self._results(
                call.path.split("/")[-2], b'"result":{"type":"succeeded","message":'
            )
        return self._batches.get(last) or {"data": [*self._batches.values()], "has_more": False}

    def _of_openai(self, call: Call) -> Any:
        parts = call.path.split("/")
        if call.path == "/v1/files":
            lines = [line for line in call.body.split(b"\n") if line.startswith(b'{"custom_id"')]
            name = f"file-{len(self._files)}"
            self._files[name] = [json.loads(line) for line in lines]
            return {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "x",
                    "purpose": "batch", "status": "processed"}  # fmt: skip
        if parts[-1] == "content":
            ours = b'"error":null,"response":{"status_code":200,"request_id":"r","body":'
            return self._results(parts[-2], ours)
        if call.method == "POST":
            rows = self._files[json.loads(call.body)["input_file_id"]]
            return self._made([(row["custom_id"], row["body"]) for row in rows])
        return self._batches.get(parts[-1]) or {"data": [*self._batches.values()]}

    def _made(self, parts: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        name = f"batch_{len(self._batches)}"
        self.created += len(parts)
        self._files[name] = [{"custom_id": part, "body": body} for part, body in parts]
        counts = dict.fromkeys(("processing", "errored", "canceled", "expired"), 0)
        if self._claude:
            made: dict[str, Any] = {
                "id": name, "type": "message_batch", "processing_status": "ended",
                "created_at": "2026-11-30T00:00:00Z", "expires_at": "2026-12-01T00:00:00Z",
                "archived_at": None,
                "results_url": f"http://{self._host}/v1/messages/batches/{name}/results",
                "request_counts": counts | {"succeeded": len(parts)},
            }  # fmt: skip
        else:
            made = {
                "id": name, "object": "batch", "status": "completed", "created_at": 1,
                "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "input_file_id": "f", "output_file_id": name, "error_file_id": None,
            }  # fmt: skip
        self._batches[name] = made
        return made

    def _results(self, name: str, before: bytes) -> Odd:
        lines = []
        for row in self._files[name]:
            found = _MARK.search(json.dumps(row["body"]))
            body = self._result(int(found[1])) if found else b"{}"
            start = b'{"custom_id":"%b",' % row["custom_id"].encode()
            lines.append(start + before + body.replace(b"\n", b" ") + b"}}\n")
        return Odd(b"".join(lines), headers=(("content-type", b"application/x-jsonl"),))
