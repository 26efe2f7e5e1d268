"""Claude's Message Batches, under /v1/messages/batches.

Endpoints of faults: batch_create, batch_retrieve, batch_list, batch_cancel and batch_results. On
the bill each part is an entry of its own, of the endpoint ``batch``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from . import rows, shapes
from .api import Answer, Route, Work
from .batching import Batch, Batching, Desk, Part
from .bill import Bill
from .claude import Claude
from .faults import Problem, bad_request
from .wire import Call

PATH = "/v1/messages/batches"
_STATES = ("processing", "succeeded", "errored", "canceled", "expired")


class ClaudeBatches(Desk):
    endpoint = "batch"
    prefix = "msgbatch_"
    after = "after_id"
    most = 1000

    def __init__(self, claude: Claude, settings: Batching, bill: Bill) -> None:
        super().__init__(settings, bill, claude.take)
        self.claude = claude
        self.results_host: str | None = None  # where results are said to be, instead of here
        claude.routes += [
            Route("POST", PATH, "batch_create", self.create),
            Route("GET", PATH, "batch_list", self.listing),
            Route("GET", f"{PATH}/{{id}}", "batch_retrieve", self.retrieve),
            Route("POST", f"{PATH}/{{id}}/cancel", "batch_cancel", self.cancel),
            Route("GET", f"{PATH}/{{id}}/results", "batch_results", self._results),
        ]

    def parts(self, call: Call) -> tuple[list[Part], dict[str, Any]]:
        text = call.body.decode()
        asked = shapes.read(text, shapes.MESSAGE_BATCH)["requests"]
        if len({item["custom_id"] for item in asked}) < len(asked):
            raise bad_request("requests: a custom_id is not unique in the batch")
        found = []
        for item, start, _ in rows.inner(text, rows.member(text, "requests")[0]):
            first, end = rows.member(text, "params", start)
            found.append(Part(item["custom_id"], text[first:end]))
        return found, {}

    def show(self, batch: Batch, call: Call) -> dict[str, Any]:
        going = "canceling" if batch.cancelled else "in_progress"
        host = self.results_host or call.headers["host"]
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if batch.ended else going,
            "request_counts": {state: batch.count(state) for state in _STATES},
            "created_at": _time(batch.created),
            "expires_at": _time(batch.expires),
            "ended_at": _time(batch.ended),
            "archived_at": None,
            "cancel_initiated_at": _time(batch.cancelled),
            "results_url": f"http://{host}{PATH}/{batch.id}/results" if batch.ended else None,
        }

    def _results(self, call: Call, id: str) -> Work:
        batch = self.find(id)
        if batch.ended is None:
            raise Problem(404, "not_found_error", f"Batch {id} has no results.")
        lines = rows.dump(self._row(part) for part in batch.parts)
        headers = {"content-type": "application/x-jsonl"}
        return lambda fault: Answer(rows.body(lines, fault), headers=headers)

    def _row(self, part: Part) -> dict[str, Any]:
        result: dict[str, Any] = {"type": part.state}
        if part.problem is not None:
            result["error"] = self.claude.error(part.problem, f"req_{part.custom_id}")
        elif part.answer is not None:
            message = part.answer.body
            if "usage" in message:
                message = message | {"usage": message["usage"] | {"service_tier": "batch"}}
            result["message"] = message
        return {"custom_id": part.custom_id, "result": result}


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
