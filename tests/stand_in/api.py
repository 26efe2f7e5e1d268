"""What an API gives the server: `route` a call to a handler, then finish what the handler took on.

The two steps stand apart because the server waits, and perhaps fails, between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from .faults import Fault
from .problems import Problem
from .wire import Call


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any
    model: str | None = None
    usage: Mapping[str, Any] | None = None
    billed: bool = True  # where there is usage at all
    usd: Decimal | None = None  # of an API that prices its own answers


@dataclass(frozen=True, slots=True)
class Work:
    finish: Callable[[Fault | None], Answer]


@dataclass(frozen=True, slots=True)
class Route:
    endpoint: str
    accept: Callable[[Call], Work]  # raises Problem; nothing is billed then
    headers: Mapping[str, str] = field(default_factory=dict)  # on each reply


class Api(Protocol):
    id_header: str  # under which a reply has its request's id

    def route(self, method: str, path: str) -> Route | None: ...

    def error(self, problem: Problem, request_id: str) -> Any: ...
