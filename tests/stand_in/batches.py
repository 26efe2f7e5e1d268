"""Claude's Message Batches, under /v1/messages/batches.

Endpoints of faults: batch_create, batch_retrieve, batch_list, batch_cancel, batch_delete and
batch_results. On the bill each part is an entry of its own, of the endpoint ``batch``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from . import json_text, rows
from .api import Answer, Route, Work
from .batching import Batch, Batching, Desk, Part
from .bill import Bill
from .claude import Claude, authorize
from .problems import Problem, bad_request
from .wire import Call

PATH: Final = "/v1/messages/batches"
_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST_LISTED, _LISTED = 1000, 20


class ClaudeBatches(Desk):
    id_header = "request-id"
    endpoint = "batch"
    prefix = "msgbatch_"

    def __init__(self, claude: Claude, settings: Batching, bill: Bill) -> None:
        super().__init__(settings, bill)
        self.claude = claude
        self.error = claude.error
        self.most_parts = 100_000
        self.results_host: str | None = None  # where results are said to be, instead of here
        self.most_bytes = 256 * 10**6

    def route(self, method: str, path: str) -> Route | None:
        if path != PATH and not path.startswith(f"{PATH}/"):
            return None
        id, _, what = path.removeprefix(PATH).strip("/").partition("/")
        routes: dict[tuple[str, bool, str], tuple[str, Callable[[Call], Work]]] = {
            ("POST", False, ""): ("batch_create", self._create),
            ("GET", False, ""): ("batch_list", self._list),
            ("GET", True, ""): ("batch_retrieve", lambda call: self._retrieve(call, id)),
            ("DELETE", True, ""): ("batch_delete", lambda call: self._delete(call, id)),
            ("POST", True, "cancel"): ("batch_cancel", lambda call: self._cancel(call, id)),
            ("GET", True, "results"): ("batch_results", lambda call: self._results(call, id)),
        }
        found = routes.get((method, bool(id), what))
        return Route(*found) if found else None

    def begin(self, part: Part) -> Work:
        params = json.loads(part.raw)
        for name, wrong in (("stream", True), ("speed", None), ("max_tokens", 0)):
            if name in params and wrong in (None, params[name]):
                raise bad_request(f"{name}: not allowed in a batch")
        work = self.claude.take(params)
        return Work(lambda fault: _at_batch_price(work.finish(fault)))

    def _create(self, call: Call) -> Work:
        authorize(call)
        if len(call.body) > self.most_bytes:
            raise Problem(413, "request_too_large", "Request exceeds the maximum size")
        parts = _parts(call.body, self.most_parts)

        def create() -> Answer:
            batch = self.open(parts)
            shown = self._show(batch, call)
            self.start(batch)
            return Answer(shown)

        return Work(lambda _: create())

    def _retrieve(self, call: Call, id: str) -> Work:
        authorize(call)
        batch = self.find(id)
        return Work(lambda _: Answer(self._show(self.look(batch), call)))

    def _list(self, call: Call) -> Work:
        authorize(call)
        limit = call.query.get("limit", str(_LISTED))
        if not limit.isdigit() or not 1 <= int(limit) <= _MOST_LISTED:
            raise bad_request(f"limit: Input should be from 1 to {_MOST_LISTED}")
        for name in ("after_id", "before_id"):
            if name in call.query:
                self.find(call.query[name])

        def found() -> Answer:
            page, more = _page(self.listed(), call, int(limit))
            data = [self._show(batch, call) for batch in page]
            ids = [batch["id"] for batch in data] or [None]
            return Answer({"data": data, "has_more": more, "first_id": ids[0], "last_id": ids[-1]})

        return Work(lambda _: found())

    def _cancel(self, call: Call, id: str) -> Work:
        authorize(call)
        batch = self.find(id)
        if batch.ended is not None:
            raise bad_request(f"Batch {id} has ended and cannot be canceled.")

        def cancelled() -> Answer:
            self.cancel(batch)
            return Answer(self._show(batch, call))

        return Work(lambda _: cancelled())

    def _delete(self, call: Call, id: str) -> Work:
        authorize(call)
        if self.find(id).ended is None:
            raise bad_request(f"Batch {id} is still processing and cannot be deleted.")

        def deleted() -> Answer:
            self.batches.pop(id, None)
            return Answer({"id": id, "type": "message_batch_deleted"})

        return Work(lambda _: deleted())

    def _results(self, call: Call, id: str) -> Work:
        authorize(call)
        batch = self.find(id)
        if batch.ended is None or self.settings.archived:
            raise Problem(404, "not_found_error", f"Batch {id} has no results.")
        lines = [rows.dump(self._row(part)) for part in batch.parts]
        if self.settings.shuffled:
            lines = rows.shuffle(lines, "".join(part.custom_id for part in batch.parts))
        headers = {"content-type": "application/x-jsonl"}
        return Work(
            lambda fault: Answer(rows.body(lines, fault.answer if fault else ""), headers=headers)
        )

    def _row(self, part: Part) -> dict[str, Any]:
        result: dict[str, Any] = {"type": part.state}
        if part.problem is not None:
            result["error"] = self.claude.error(part.problem, f"req_{part.custom_id}")
        elif part.answer is not None:
            result["message"] = part.answer.body
        return {"custom_id": part.custom_id, "result": result}

    def _show(self, batch: Batch, call: Call) -> dict[str, Any]:
        going = "canceling" if batch.cancelled else "in_progress"
        over, archived = batch.ended is not None, bool(batch.ended and self.settings.archived)
        states = ("processing", "succeeded", "errored", "canceled", "expired")
        host = self.results_host or call.headers["host"]
        url = f"http://{host}{PATH}/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": going if batch.ended is None else "ended",
            "request_counts": {state: batch.count(state) for state in states},
            "created_at": _time(batch.created),
            "expires_at": _time(batch.created + timedelta(hours=24)),
            "ended_at": _time(batch.ended),
            "archived_at": _time(batch.ended) if archived else None,
            "cancel_initiated_at": _time(batch.cancelled),
            "results_url": url if over and not archived else None,
        }


def _parts(raw: bytes, most: int) -> list[Part]:
    try:
        text = raw.decode()
        body = json.loads(text)
    except ValueError as error:
        raise bad_request("The request body is not valid JSON") from error
    asked = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(asked, list) or not asked or set(body) != {"requests"}:
        raise bad_request("requests: Input should be a list of at least 1 item")
    if len(asked) > most:
        raise bad_request(f"requests: List should have at most {most} items")
    seen: set[str] = set()
    for place, item in enumerate(asked):
        _check_item(item, place, seen)
    spans = json_text.items(text, json_text.members(text)["requests"][0])
    found = []
    for item, (start, _) in zip(asked, spans, strict=True):
        first, end = json_text.members(text, start)["params"]
        found.append(Part(item["custom_id"], text[first:end], _marker(item)))
    return found


def _check_item(item: Any, place: int, seen: set[str]) -> None:
    where = f"requests.{place}"
    if not isinstance(item, dict) or set(item) != {"custom_id", "params"}:
        raise bad_request(f"{where}: Input should be exactly custom_id and params")
    id = item["custom_id"]
    if not isinstance(id, str) or not _CUSTOM_ID.fullmatch(id):
        raise bad_request(f"{where}.custom_id: should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
    if id in seen:
        raise bad_request(f"{where}.custom_id: '{id}' is not unique in the batch")
    if not isinstance(item["params"], dict):
        raise bad_request(f"{where}.params: Input should be a valid dictionary")
    seen.add(id)


def _marker(item: dict[str, Any]) -> str:
    metadata = item["params"].get("metadata")
    named = metadata.get("user_id") if isinstance(metadata, dict) else None
    return str(named or item["custom_id"])


def _page(found: Sequence[Batch], call: Call, limit: int) -> tuple[Sequence[Batch], bool]:
    """`after_id` goes on to older ones, `before_id` back to newer ones."""
    ids = [batch.id for batch in found]
    if (newest := call.query.get("after_id")) in ids:
        found = found[ids.index(str(newest)) + 1 :]
    if (oldest := call.query.get("before_id")) in ids:
        newer = found[: ids.index(str(oldest))]
        return newer[-limit:], len(newer) > limit
    return found[:limit], len(found) > limit


def _at_batch_price(answer: Answer) -> Answer:
    usage = {**(answer.usage or {}), "service_tier": "batch"}
    body = {**answer.body, **({"usage": usage} if "usage" in answer.body else {})}
    return replace(answer, body=body, usage=usage)


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
