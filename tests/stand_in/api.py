"""What an API gives the server: routes from calls to work, and the shape of its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from .faults import Fault, Problem
from .wire import Call, Manner, Reply


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any  # bytes leave as they are, everything else as JSON
    model: str | None = None
    usage: Mapping[str, Any] | None = None
    usd: Decimal = Decimal(0)
    headers: Mapping[str, str] = field(default_factory=dict)


# The server waits, and perhaps fails, between taking a call on and finishing it.
Work = Callable[[Fault | None], Answer]


class Route:
    """``path`` may have one ``{id}``. ``accept`` raises Problem; nothing is billed then."""

    def __init__(
        self, method: str, path: str, endpoint: str, accept: Callable[[Call, str], Work]
    ) -> None:
        self.method = method
        self.pattern = re.compile(path.replace("{id}", "([^/]+)"))
        self.endpoint = endpoint
        self.accept = accept

    def match(self, call: Call) -> str | None:
        found = self.pattern.fullmatch(call.path) if call.method == self.method else None
        return "".join(found.groups()) if found else None


class Api(Protocol):
    id_header: str  # under which a reply has its request's id
    routes: list[Route]

    def authorize(self, call: Call) -> None: ...

    def headers(self) -> dict[str, str]: ...

    def error(self, problem: Problem, request_id: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request."""

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

    def reply(self, api: Api, request_id: str) -> Reply:
        headers = {api.id_header: request_id, **api.headers()}
        if self.problem is not None:
            if self.fault and self.fault.retry_after is not None:
                headers["retry-after"] = f"{self.fault.retry_after:g}"
            shown = api.error(self.problem, request_id)
            return Reply(self.problem.status, json.dumps(shown).encode(), headers)
        if self.answer is None:
            return Reply(200, b"null", headers)
        body = self.answer.body
        whole = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Reply(200, whole, {**headers, **self.answer.headers})


def bearer(call: Call) -> bool:
    """Whether there is a key, and not the one that tests take for a bad one."""
    scheme, _, key = call.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and key.strip() not in ("", "bad-key")
