"""OpenAI's batches, under /v1/batches, of POST /v1/chat/completions alone.

Endpoints of faults: chat_batch_create, chat_batch_retrieve, chat_batch_list and chat_batch_cancel;
those of the results are the files'. On the bill each part is an entry of the endpoint
``chat_batch``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from . import json_text, rows
from .api import Answer, Route, Work
from .batching import Batch, Batching, Desk, Part
from .bill import Bill
from .chat import Chat
from .files import File, Files
from .problems import Problem, bad_request
from .wire import Call

PATH: Final = "/v1/batches"
_ENDPOINT: Final = Chat.path
_MOST_LISTED, _LISTED = 100, 20
_GONE: Final = {
    "expired": ("batch_expired", "This request was not executed before the batch expired."),
    "canceled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


class ChatBatches(Desk):
    id_header = "x-request-id"
    endpoint = "chat_batch"
    prefix = "batch_"
    fates = ("expire", "fail")

    def __init__(self, chat: Chat, files: Files, settings: Batching, bill: Bill) -> None:
        super().__init__(settings, bill)
        self.chat = chat
        self.files = files
        self.error = chat.error
        self.most_parts = 50_000
        self.tells_undone = True  # whether what was not done has a row among the errors

    def route(self, method: str, path: str) -> Route | None:
        if path != PATH and not path.startswith(f"{PATH}/"):
            return None
        id, _, what = path.removeprefix(PATH).strip("/").partition("/")
        routes: dict[tuple[str, bool, str], tuple[str, Callable[[Call], Work]]] = {
            ("POST", False, ""): ("chat_batch_create", self._create),
            ("GET", False, ""): ("chat_batch_list", self._list),
            ("GET", True, ""): ("chat_batch_retrieve", lambda call: self._retrieve(call, id)),
            ("POST", True, "cancel"): ("chat_batch_cancel", lambda call: self._cancel(call, id)),
        }
        found = routes.get((method, bool(id), what))
        return Route(*found) if found else None

    def begin(self, part: Part) -> Work:
        body = json.loads(part.raw)
        if not isinstance(body.get("messages"), list):
            raise bad_request("Missing required parameter: 'messages'.")
        work = self.chat.take(body)

        def finish(answer: Answer) -> Answer:
            return replace(answer, usd=answer.price / 2)

        return Work(lambda fault: finish(work.finish(fault)))

    def closed(self, batch: Batch) -> None:
        for name, succeeded in (("output", True), ("error", False)):
            parts = [part for part in batch.parts if (part.state == "succeeded") is succeeded]
            lines = [rows.dump(self._row(part)) for part in parts]
            if self.settings.shuffled:
                lines = rows.shuffle(lines, "".join(part.custom_id for part in parts))
            if lines and (succeeded or self.tells_undone):
                file = File(f"{batch.id}_{name}.jsonl", "batch_output", lines=lines)
                batch.more[name] = self.files.keep(file).id

    def _create(self, call: Call) -> Work:
        self.chat.authorize(call)
        try:
            body = json.loads(call.body)
        except ValueError as error:
            raise bad_request("We could not parse the JSON body of your request.") from error
        _check(body)
        file = self.files.find(body["input_file_id"])

        def create() -> Answer:
            parts, errors = _parts(file.body, self.most_parts)
            batch = self.open(parts, asked=body)
            if batch.fate == "fail" and not errors:
                errors = [_error("invalid_request", None, "This batch was not valid.")]
            if errors:
                batch.parts, batch.more["errors"] = [], errors
            shown = self._show(batch)
            self.start(batch)
            return Answer(shown)

        return Work(lambda _: create())

    def _retrieve(self, call: Call, id: str) -> Work:
        self.chat.authorize(call)
        batch = self.find(id)
        return Work(lambda _: Answer(self._show(self.look(batch))))

    def _list(self, call: Call) -> Work:
        self.chat.authorize(call)
        limit, after = call.query.get("limit", str(_LISTED)), call.query.get("after")
        if not limit.isdigit() or not 1 <= int(limit) <= _MOST_LISTED:
            raise bad_request(f"Invalid 'limit': expected 1 to {_MOST_LISTED}.")
        if after is not None:
            self.find(after)

        def found() -> Answer:
            data = [self._show(batch) for batch in self.listed()]
            ids = [batch["id"] for batch in data]
            data = data[ids.index(after) + 1 if after in ids else 0 :]
            page = data[: int(limit)]
            ids = [batch["id"] for batch in page] or [None]
            return Answer(
                {
                    "object": "list",
                    "data": page,
                    "first_id": ids[0],
                    "last_id": ids[-1],
                    "has_more": len(data) > len(page),
                }
            )

        return Work(lambda _: found())

    def _cancel(self, call: Call, id: str) -> Work:
        self.chat.authorize(call)
        batch = self.find(id)
        if batch.ended is not None:
            raise bad_request(f"Cannot cancel a batch with status '{self._status(batch)}'.")

        def cancelled() -> Answer:
            self.cancel(batch)
            return Answer(self._show(batch))

        return Work(lambda _: cancelled())

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

    def _status(self, batch: Batch) -> str:
        if batch.ended is None:
            if batch.cancelled:
                return "cancelling"
            if not batch.looks:
                return "validating"
            return "finalizing" if 1 < self.settings.polls <= batch.looks else "in_progress"
        if "errors" in batch.more:
            return "failed"
        return "cancelled" if batch.cancelled else "expired" if batch.fate else "completed"

    def _show(self, batch: Batch) -> dict[str, Any]:
        asked, errors, status = batch.more["asked"], batch.more.get("errors"), self._status(batch)
        ends: dict[str, int | None] = {
            f"{name}_at": None for name in ("completed", "failed", "expired", "cancelled")
        }
        if batch.ended is not None:
            ends[f"{status}_at"] = _time(batch.ended)
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": {"object": "list", "data": errors} if errors and batch.ended else None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": status,
            "output_file_id": batch.more.get("output"),
            "error_file_id": batch.more.get("error"),
            "created_at": _time(batch.created),
            "in_progress_at": _time(batch.created) if batch.looks else None,
            "expires_at": _time(batch.created + timedelta(hours=24)),
            "finalizing_at": ends["completed_at"],
            "cancelling_at": _time(batch.cancelled),
            **ends,
            "request_counts": {
                "total": len(batch.parts) if batch.looks or batch.ended else 0,
                "completed": batch.count("succeeded"),
                "failed": batch.count("errored"),
            },
            "metadata": asked.get("metadata"),
        }


def _check(body: Any) -> None:
    names = {"input_file_id", "endpoint", "completion_window"}
    if not isinstance(body, dict) or not names <= set(body) <= names | {"metadata"}:
        raise bad_request("Missing required parameter, or unknown parameter, of a batch.")
    if body["endpoint"] != _ENDPOINT or body["completion_window"] != "24h":
        raise bad_request(f"Only {_ENDPOINT} within 24h is simulated by this stand-in.")
    metadata = body.get("metadata") or {}
    sound = isinstance(metadata, dict) and len(metadata) <= 16
    if not sound or any(
        not isinstance(value, str) or len(key) > 64 or len(value) > 512
        for key, value in metadata.items()
    ):
        raise bad_request("Invalid 'metadata': at most 16 pairs, of 64 and 512 characters.")


def _parts(raw: bytes, most: int) -> tuple[list[Part], list[dict[str, Any]]]:
    """The parts, and what is wrong with the file."""
    parts: dict[str, Part] = {}
    errors: list[dict[str, Any]] = []
    models: set[str] = set()
    lines = raw.splitlines()
    if not lines:
        return [], [_error("empty_file", None, "The input file is empty.")]
    if len(lines) > most:
        return [], [_error("too_many_tasks", None, f"A batch holds {most} requests at most.")]
    for number, line in enumerate(lines, start=1):
        try:
            part, model = _part(line, parts)
        except Problem as wrong:
            errors.append(_error(wrong.type, number, wrong.message))
            continue
        models.add(model)
        if len(models) > 1:
            errors.append(_error("mismatched_model", number, "All must be of one model."))
        parts[part.custom_id] = part
    return list(parts.values()), errors


def _part(raw: bytes, others: dict[str, Part]) -> tuple[Part, str]:
    try:
        text = raw.decode()
        line = json.loads(text)
    except ValueError as error:
        raise Problem(400, "invalid_json_line", "This line is not valid JSON.") from error
    if not isinstance(line, dict) or not {"custom_id", "method", "url", "body"} <= set(line):
        raise Problem(400, "missing_required_parameter", "custom_id, method, url and body.")
    id, body = line["custom_id"], line["body"]
    if not isinstance(id, str) or not id or not isinstance(body, dict):
        raise Problem(400, "invalid_type", "custom_id is a string, and body an object.")
    if line["method"] != "POST" or line["url"] != _ENDPOINT:
        raise Problem(400, "invalid_url", "This is not the batch's endpoint.")
    if id in others:
        raise Problem(400, "duplicate_custom_id", f"The custom_id '{id}' has come before.")
    first, end = json_text.members(text)["body"]
    return Part(id, text[first:end], id), str(body.get("model"))


def _error(code: str, line: int | None, message: str) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": None}


def _time(at: datetime | None) -> int | None:
    return int(at.timestamp()) if at else None
