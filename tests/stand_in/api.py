"""What an API gives the server: `route` a call to a handler, then finish what the handler took on.

The two steps stand apart because the server waits, and perhaps fails, between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from .bill import price_usd
from .faults import Fault
from .problems import Problem
from .wire import Call


@dataclass(frozen=True, slots=True)
class Answer:
    body: Any  # bytes leave as they are, everything else as JSON
    model: str | None = None
    usage: Mapping[str, Any] | None = None
    billed: bool = True  # where there is usage at all
    usd: Decimal | None = None  # of an API that prices its own answers
    headers: Mapping[str, str] = field(default_factory=dict)  # on this reply alone

    @property
    def price(self) -> Decimal:
        if self.model is None or self.usage is None or not self.billed:
            return Decimal(0)
        return price_usd(self.model, self.usage) if self.usd is None else self.usd


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
