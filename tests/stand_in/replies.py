"""What came of a request, and the reply that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from .api import Answer, Api, Route, Work
from .faults import Fault
from .problems import Problem
from .wire import Call, Manner, Reply


@dataclass(frozen=True, slots=True)
class Outcome:
    fault: Fault | None = None
    answer: Answer | None = None  # what the work came to, sent or not
    problem: Problem | None = None  # what is sent in its place

    @property
    def manner(self) -> Manner:
        return self.fault.manner if self.fault else Manner.WHOLE

    @property
    def status(self) -> int | None:
        if self.manner in (Manner.RST, Manner.FIN):
            return None
        return self.problem.status if self.problem else 200

    @property
    def usd(self) -> Decimal:
        return self.answer.price if self.answer else Decimal(0)


def reply_of(api: Api, route: Route, request_id: str, outcome: Outcome) -> Reply:
    headers = {api.id_header: request_id, **route.headers}
    if outcome.problem is not None:
        if outcome.fault and outcome.fault.retry_after is not None:
            headers["retry-after"] = f"{outcome.fault.retry_after:g}"
        shown = api.error(outcome.problem, request_id)
        return Reply(outcome.problem.status, json.dumps(shown).encode(), headers)
    if outcome.answer is None:
        return Reply(200, b"null", headers)
    headers |= outcome.answer.headers
    body = outcome.answer.body
    return Reply(200, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def not_found(call: Call) -> Work:
    raise Problem(404, "not_found_error", f"Not found: {call.path}")


def marker_of(call: Call) -> str:
    """What a test can tell a request by: a header of its own, or the metadata's user id."""
    if marker := call.headers.get("x-stand-in-marker"):
        return marker
    try:
        return str(json.loads(call.body)["metadata"]["user_id"])
    except (ValueError, LookupError, TypeError):
        return ""
