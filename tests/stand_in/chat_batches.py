"""OpenAI's batches of POST /v1/chat/completions, under /v1/batches, and their files, /v1/files.

Endpoints of faults: file_create, file_content, chat_batch_create, chat_batch_retrieve,
chat_batch_list and chat_batch_cancel. On the bill each part is an entry of the endpoint
``chat_batch``.
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import datetime
from typing import Any, Final

from . import rows, shapes
from .api import Answer, Route, Work
from .batching import Batch, Batching, Desk, Part
from .bill import Bill
from .chat import Chat
from .faults import Problem, bad_request
from .wire import Call

PATH, FILES = "/v1/batches", "/v1/files"
_MOST_PARTS = 50_000
_MULTIPART: Final = re.compile(rb'name="(\w+)"[^\r]*\r\n(?:[^\r]+\r\n)*\r\n(.*)\r\n', re.DOTALL)
_GONE: Final = {
    "expired": ("batch_expired", "This request was not executed before the batch expired."),
    "canceled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


class ChatBatches(Desk):
    endpoint = "chat_batch"
    prefix = "batch_"
    after = "after"
    most = 100

    def __init__(self, chat: Chat, settings: Batching, bill: Bill) -> None:
        super().__init__(settings, bill, chat.take)
        self.chat = chat
        self.tells_undone = True  # whether what was not done has a row among the errors
        self.files: dict[str, list[bytes]] = {}  # their lines
        chat.routes += [
            Route("POST", FILES, "file_create", self._upload),
            Route("GET", f"{FILES}/{{id}}/content", "file_content", self._content),
            Route("POST", PATH, "chat_batch_create", self.create),
            Route("GET", PATH, "chat_batch_list", self.listing),
            Route("GET", f"{PATH}/{{id}}", "chat_batch_retrieve", self.retrieve),
            Route("POST", f"{PATH}/{{id}}/cancel", "chat_batch_cancel", self.cancel),
        ]

    def parts(self, call: Call) -> tuple[list[Part], dict[str, Any]]:
        asked = shapes.read(call.body, shapes.CHAT_BATCH)
        parts: dict[str, Part] = {}
        errors: list[dict[str, Any]] = []
        models: set[str] = set()
        for number, raw in enumerate(self._file(asked["input_file_id"]), start=1):
            try:
                text = raw.decode()
                line = shapes.read(text, shapes.CHAT_LINE)
                models.add(line["body"].get("model"))
                if line["custom_id"] in parts or len(models) > 1:
                    raise bad_request("A custom_id has come before, or another model.")
            except Problem as wrong:
                errors.append(_error(wrong.message, number))
                continue
            first, end = rows.member(text, "body")
            parts[line["custom_id"]] = Part(line["custom_id"], text[first:end])
        if not 1 <= len(parts) + len(errors) <= _MOST_PARTS:
            errors = [_error(f"A batch holds 1 to {_MOST_PARTS} requests.", None)]
        return [] if errors else list(parts.values()), {"asked": asked, "errors": errors}

    def closed(self, batch: Batch) -> None:
        if batch.fate == "fail":
            batch.more["errors"].append(_error("This batch was not valid.", None))
        for name, succeeded in (("output", True), ("error", False)):
            parts = [part for part in batch.parts if (part.state == "succeeded") is succeeded]
            if parts and (succeeded or self.tells_undone):
                batch.more[name] = self._keep(rows.dump(map(self._row, parts)))

    def show(self, batch: Batch, call: Call) -> dict[str, Any]:
        status, errors = self._status(batch), batch.more["errors"]
        ends: dict[str, int | None] = {
            f"{name}_at": None for name in ("completed", "failed", "expired", "cancelled")
        }
        if batch.ended is not None:
            ends[f"{status}_at"] = _time(batch.ended)
        return {
            "id": batch.id,
            "object": "batch",
            "metadata": None,
            **batch.more["asked"],
            "errors": {"object": "list", "data": errors} if errors and batch.ended else None,
            "status": status,
            "output_file_id": batch.more.get("output"),
            "error_file_id": batch.more.get("error"),
            "created_at": _time(batch.created),
            "in_progress_at": _time(batch.created) if batch.looks else None,
            "expires_at": _time(batch.expires),
            "finalizing_at": ends["completed_at"],
            "cancelling_at": _time(batch.cancelled),
            **ends,
            "request_counts": {
                "total": len(batch.parts) if batch.looks or batch.ended else 0,
                "completed": batch.count("succeeded"),
                "failed": batch.count("errored"),
            },
        }

    def _status(self, batch: Batch) -> str:
        if batch.ended is None:
            if batch.cancelled:
                return "cancelling"
            if not batch.looks:
                return "validating"
            return "finalizing" if 1 < self.settings.polls <= batch.looks else "in_progress"
        if batch.more["errors"]:
            return "failed"
        return "cancelled" if batch.cancelled else "expired" if batch.fate else "completed"

    def _row(self, part: Part) -> dict[str, Any]:
        response, error = None, None
        if gone := _GONE.get(part.state):
            error = {"code": gone[0], "message": gone[1]}
        else:
            id = f"req_{secrets.token_hex(12)}"
            status, body = 200, part.answer.body if part.answer else None
            if part.problem is not None:
                status, body = part.problem.status, self.chat.error(part.problem, id)
            response = {"status_code": status, "request_id": id, "body": body}
        id = f"batch_req_{secrets.token_hex(12)}"
        return {"id": id, "custom_id": part.custom_id, "response": response, "error": error}

    def _upload(self, call: Call, _: str) -> Work:
        """Of multipart/form-data, as far as a batch's file needs it."""
        _, _, boundary = call.headers.get("content-type", "").partition("boundary=")
        pieces = call.body.split(b"--" + boundary.strip('"').encode()) if boundary else []
        parts = {found[1]: found[2] for piece in pieces if (found := _MULTIPART.search(piece))}
        if parts.get(b"purpose") != b"batch" or b"file" not in parts:
            raise bad_request("Only a 'file' with the 'purpose' of a batch is simulated here.")
        body = parts[b"file"]

        def kept() -> Answer:
            shown = {"id": self._keep(body.splitlines()), "object": "file", "purpose": "batch"}
            more = {"bytes": len(body), "filename": "batch.jsonl", "created_at": int(time.time())}
            return Answer({**shown, **more, "expires_at": None, "status": "processed"})

        return lambda fault: kept()

    def _content(self, call: Call, id: str) -> Work:
        lines, headers = self._file(id), {"content-type": "application/octet-stream"}
        return lambda fault: Answer(rows.body(lines, fault), headers=headers)

    def _keep(self, lines: list[bytes]) -> str:
        id = f"file-{secrets.token_hex(12)}"
        self.files[id] = lines
        return id

    def _file(self, id: str) -> list[bytes]:
        if id not in self.files:
            raise Problem(404, "invalid_request_error", f"No such File object: {id}")
        return self.files[id]


def _error(message: str, line: int | None) -> dict[str, Any]:
    return {"code": "invalid_request", "line": line, "message": message, "param": None}


def _time(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None
