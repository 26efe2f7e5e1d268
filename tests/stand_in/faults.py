"""Which fault meets which request, and what each fault is.

Whether work that ends in a dropped connection is billed is an assumption of this stand-in (the
costly one): it is what a client under a budget has to be safe against.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from .problems import Problem
from .wire import Manner


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    name: str
    works: bool = True  # the model does its work, and it is billed
    problem: Problem | None = None  # an error in place of the answer
    manner: Manner = Manner.WHOLE  # how the reply leaves, if it does
    answer: str = ""  # how the answer itself is off; claude.py knows these
    seconds: float = 0.0
    retry_after: float | None = None


def _refused(
    name: str,
    status: int,
    type: str,
    message: str,
    *,
    retry_after: float | None = None,
    error_code: str | None = None,
    works: bool = False,
) -> Fault:
    problem = Problem(status, type, message, error_code=error_code)
    return Fault(name=name, works=works, problem=problem, retry_after=retry_after)


_LIMIT = "This request would exceed your organization's rate limit."
_SPENT = "Your organization has crossed its monthly API usage threshold."
_OWN_LIMIT = (
    "You have reached your specified API usage limits. "
    "You will regain access on 2027-01-01 at 00:00 UTC."
)
_TABLE: Final[tuple[Fault, ...]] = (
    _refused("400_usage_limits", 400, "invalid_request_error", _OWN_LIMIT),
    _refused("401", 401, "authentication_error", "invalid bearer token"),
    _refused("402", 402, "billing_error", "Your credit balance is too low."),
    _refused("403", 403, "permission_error", "Your key may not use this resource."),
    _refused("408", 408, "timeout_error", "The request timed out."),
    _refused("409", 409, "conflict_error", "The request conflicts with another."),
    _refused("413", 413, "invalid_request_error", "The request is too large."),
    _refused("429", 429, "rate_limit_error", _LIMIT, retry_after=1),
    _refused("429_bare", 429, "rate_limit_error", _LIMIT),
    _refused(
        "429_spend", 429, "rate_limit_error", _SPENT, error_code="enforced_spend_limit_reached"
    ),
    _refused("500", 500, "api_error", "Internal server error"),
    _refused("502", 502, "api_error", "Bad gateway"),
    _refused("503", 503, "api_error", "Service unavailable"),
    _refused("504", 504, "timeout_error", "Gateway timeout"),
    _refused("504_after", 504, "timeout_error", "Gateway timeout", works=True),
    _refused("529", 529, "overloaded_error", "Overloaded"),
    Fault(name="rst_before", works=False, manner=Manner.RST),
    Fault(name="rst_after", manner=Manner.RST),
    Fault(name="fin_after", manner=Manner.FIN),
    Fault(name="cut", manner=Manner.CUT),
    Fault(name="cut_chunked", manner=Manner.CUT_CHUNKED),
    Fault(name="cut_unsized", manner=Manner.CUT_UNSIZED),
    Fault(name="malformed", manner=Manner.MALFORMED),
    Fault(name="empty", manner=Manner.EMPTY),
    Fault(name="html", manner=Manner.HTML),
    Fault(name="slow", seconds=1.0),
    Fault(name="drip", seconds=1.0, manner=Manner.DRIP),
    Fault(name="refusal", answer="refusal"),  # before any output: by the documentation, unbilled
    Fault(name="refusal_late", answer="refusal_late"),  # after some output: billed
    Fault(name="max_tokens", answer="max_tokens"),
    Fault(name="pause_turn", answer="pause_turn"),
    Fault(name="context_window", answer="model_context_window_exceeded"),
    Fault(name="off_enum", answer="off_enum"),
    Fault(name="other_case", answer="other_case"),
    Fault(name="no_usage", answer="no_usage"),
)
FAULTS: Final[dict[str, Fault]] = {fault.name: fault for fault in _TABLE}
# Of the results of a batch alone; rows.py knows how each body is off.
ROW_FAULTS: Final[dict[str, Fault]] = {
    name: Fault(name=name, answer=name, manner=manner)
    for name, manner in {
        "missing_row": Manner.WHOLE,
        "double_row": Manner.WHOLE,
        "stray_row": Manner.WHOLE,
        "malformed_row": Manner.WHOLE,
        "blank_last_row": Manner.WHOLE,
        "cut_at_line": Manner.UNSIZED,
        "cut_in_line": Manner.UNSIZED,
    }.items()
}
_EVERY: Final = FAULTS | ROW_FAULTS
# Those that a long run can meet without having to stop, for a random mix.
STEADY: Final[tuple[str, ...]] = tuple(
    name
    for name in FAULTS
    if name not in {"400_usage_limits", "401", "402", "403", "413", "429_spend"}
)
# The same where no model answers: the endpoints of batches and files.
STEADY_BATCH: Final[tuple[str, ...]] = tuple(name for name in STEADY if not FAULTS[name].answer)


@dataclass(slots=True)
class _Waiting:
    fault: Fault
    endpoint: str
    when: Callable[[str], bool] | None


@dataclass(slots=True)
class _Mix:
    seed: int
    rates: dict[str, float]
    changes: dict[str, Any]
    seen: Counter[str]

    def draw(self, material: bytes) -> Fault | None:
        sha256 = hashlib.sha256(material).hexdigest()
        self.seen[sha256] += 1
        drawn = random.Random(f"{self.seed}:{sha256}:{self.seen[sha256]}").random()
        for name, rate in self.rates.items():
            if drawn < rate:
                return _changed(_EVERY[name], self.changes)
            drawn -= rate
        return None


class Faults:
    """A queue of one-shot faults, then a seeded mix. Safe to change while requests come in."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._mixes: dict[str, _Mix] = {}  # by endpoint
        self._seen: Counter[str] = Counter()

    def push(
        self,
        *names: str,
        times: int = 1,
        endpoint: str = "messages",
        when: Callable[[str], bool] | None = None,
        **changes: Any,
    ) -> None:
        """Queue faults, one per request; `when` picks the request by its raw body, or its path.

        `changes` replaces fields of the fault: `seconds=0.2`, `retry_after=30`.
        """
        with self._lock:
            for fault in [_EVERY[name] for _ in range(times) for name in names]:
                self._queue.append(_Waiting(replace(fault, **changes), endpoint, when))

    def mix(
        self,
        seed: int,
        rate: float | Mapping[str, float],
        names: Iterable[str] = STEADY,
        *,
        endpoint: str = "messages",
        **changes: Any,
    ) -> None:
        """Meet each request with a fault at this rate, shared among `names`, or at rates by name.

        The draw depends on the seed, the body and how often that body has come, not on the order
        of arrival: a concurrent run meets the same faults every time. (For batches and files it
        is the endpoint in place of the body: those have ids in them that no two runs share.)
        Each endpoint has a mix of its own. `changes` applies to the faults that have such a field
        set: `seconds=0.05` to the slow ones, and so on.
        """
        pool = list(names)
        even = rate if isinstance(rate, Mapping) else dict.fromkeys(pool, rate / len(pool))
        if unknown := set(even) - set(_EVERY):
            raise KeyError(f"no such faults: {sorted(unknown)}")
        replace(FAULTS["slow"], **changes)  # a misspelt field fails here, not in the server
        with self._lock:
            self._mixes[endpoint] = _Mix(seed, dict(even), dict(changes), self._seen)

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._mixes.clear()

    def waiting(self) -> int:
        """How many queued faults have not met their request yet."""
        return len(self._queue)

    def meet(self, endpoint: str, body: bytes) -> Fault | None:
        with self._lock:
            fault = self._queued(endpoint, body) or self._drawn(endpoint, body)
            if fault is not None:
                self.fired[fault.name] += 1
            return fault

    def _queued(self, endpoint: str, body: bytes) -> Fault | None:
        text = body.decode("utf-8", "replace")
        for place, waiting in enumerate(self._queue):
            if waiting.endpoint == endpoint and (waiting.when is None or waiting.when(text)):
                return self._queue.pop(place).fault
        return None

    def _drawn(self, endpoint: str, body: bytes) -> Fault | None:
        if (mix := self._mixes.get(endpoint)) is None:
            return None
        by_body = endpoint in ("messages", "count_tokens", "chat")
        return mix.draw(body if by_body else endpoint.encode())


def _changed(fault: Fault, changes: Mapping[str, Any]) -> Fault:
    fields = {name: value for name, value in changes.items() if getattr(fault, name)}
    return replace(fault, **fields)
