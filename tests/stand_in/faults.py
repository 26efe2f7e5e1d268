"""Which fault meets which request or part of a batch, and what each fault is.

Whether work that ends in a dropped connection is billed is an assumption of this stand-in (the
costly one): it is what a client under a budget has to be safe against.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .wire import Manner


class Problem(Exception):
    """An error reply, before it has an API's shape."""

    def __init__(
        self, status: int, type: str, message: str, *, error_code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.error_code = error_code


def bad_request(message: str) -> Problem:
    return Problem(400, "invalid_request_error", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    name: str
    works: bool = True  # the model does its work, and it is billed
    problem: Problem | None = None  # an error in place of the answer
    manner: Manner = Manner.WHOLE  # how the reply leaves, if it does
    answer: str = ""  # how the answer itself is off; answers.py and rows.py know these
    seconds: float = 0.0
    retry_after: float | None = None


_LIMIT = "This request would exceed your organization's rate limit."
_SPENT = "Your organization has crossed its monthly API usage threshold."
_OWN_LIMIT = (
    "You have reached your specified API usage limits. "
    "You will regain access on 2027-01-01 at 00:00 UTC."
)
_REFUSALS: Final[dict[str, Problem]] = {
    "400_usage_limits": bad_request(_OWN_LIMIT),
    "401": Problem(401, "authentication_error", "invalid bearer token"),
    "402": Problem(402, "billing_error", "Your credit balance is too low."),
    "403": Problem(403, "permission_error", "Your key may not use this resource."),
    "408": Problem(408, "timeout_error", "The request timed out."),
    "409": Problem(409, "conflict_error", "The request conflicts with another."),
    "413": Problem(413, "invalid_request_error", "The request is too large."),
    "429": Problem(429, "rate_limit_error", _LIMIT),
    "429_bare": Problem(429, "rate_limit_error", _LIMIT),
    "429_spend": Problem(
        429, "rate_limit_error", _SPENT, error_code="enforced_spend_limit_reached"
    ),
    "500": Problem(500, "api_error", "Internal server error"),
    "502": Problem(502, "api_error", "Bad gateway"),
    "503": Problem(503, "api_error", "Service unavailable"),
    "504": Problem(504, "timeout_error", "Gateway timeout"),
    "504_after": Problem(504, "timeout_error", "Gateway timeout"),
    "529": Problem(529, "overloaded_error", "Overloaded"),
}
_ANSWERS = (
    "refusal",  # before any output: by the documentation, unbilled
    "refusal_late",  # after some output: billed
    "max_tokens", "pause_turn", "context_window", "off_enum", "other_case", "no_usage",
)  # fmt: skip
_WIRE = ("rst_after", "fin_after", "cut", "cut_chunked", "cut_unsized", "malformed", "empty")
_OFF = {name: Fault(name=name, answer=name) for name in _ANSWERS}
FAULTS: Final[dict[str, Fault]] = {
    name: Fault(name=name, problem=problem, works=name.endswith("_after"))
    for name, problem in _REFUSALS.items()
} | {
    "rst_before": Fault(name="rst_before", works=False, manner=Manner.RST),
    **{
        name: Fault(name=name, manner=Manner[name.removesuffix("_after").upper()]) for name in _WIRE
    },
    "html": Fault(name="html", manner=Manner.HTML),
    "slow": Fault(name="slow", seconds=1.0),
    "drip": Fault(name="drip", seconds=1.0, manner=Manner.DRIP),
    **_OFF,
}
FAULTS["429"] = replace(FAULTS["429"], retry_after=1)
# Of the results of a batch alone.
ROW_FAULTS: Final[dict[str, Fault]] = {
    name: Fault(name=name, answer=name, manner=Manner.UNSIZED if "cut" in name else Manner.WHOLE)
    for name in (
        "missing_row", "double_row", "stray_row", "malformed_row", "blank_last_row", "cut_at_line",
        "cut_in_line",
    )
}  # fmt: skip
# What becomes of a part of a batch: the endpoint "part".
FATES: Final[dict[str, Fault]] = {
    "errored_invalid": Fault(
        name="errored_invalid", works=False, problem=bad_request("This request is not valid.")
    ),
    "errored_api": replace(FAULTS["500"], name="errored_api"),
    "errored_overloaded": replace(FAULTS["529"], name="errored_overloaded"),
    "expired": Fault(name="expired", works=False),
    "canceled": Fault(name="canceled", works=False),
    **_OFF,
}
_EVERY: Final = FAULTS | ROW_FAULTS | FATES
# Those that a long run can meet without having to stop, for a random mix.
STEADY: Final[tuple[str, ...]] = tuple(
    name
    for name in FAULTS
    if name not in {"400_usage_limits", "401", "402", "403", "413", "429_spend"}
)
# The same where no model answers: the endpoints of batches and files.
STEADY_BATCH: Final[tuple[str, ...]] = tuple(name for name in STEADY if not FAULTS[name].answer)


@dataclass(slots=True)
class _Mix:
    """The draw depends on the seed, the key and how often that key has come, not on the order of
    arrival: a concurrent run meets the same faults every time."""

    seed: int
    rate: float
    names: list[str]
    changes: dict[str, Any]
    seen: Counter[str] = field(default_factory=Counter)

    def draw(self, key: str) -> Fault | None:
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        self.seen[sha256] += 1
        drawn = random.Random(f"{self.seed}:{sha256}:{self.seen[sha256]}").random()
        if drawn >= self.rate:
            return None
        fault = _EVERY[self.names[int(drawn / self.rate * len(self.names))]]
        had = {name: value for name, value in self.changes.items() if getattr(fault, name)}
        return replace(fault, **had)


class Faults:
    """A queue of one-shot faults, then a seeded mix. Safe to change while requests come in."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._queue: list[tuple[Fault, str, Callable[[str], bool]]] = []
        self._mixes: dict[str, _Mix] = {}  # by endpoint

    def push(
        self,
        *names: str,
        times: int = 1,
        endpoint: str = "messages",
        when: Callable[[str], bool] = lambda text: True,
        **changes: Any,
    ) -> None:
        """Queue faults, one per request; `when` picks the request by its raw body, or its path.

        `changes` replaces fields of the fault: `seconds=0.2`, `retry_after=30`.
        """
        with self._lock:
            for fault in [_EVERY[name] for _ in range(times) for name in names]:
                self._queue.append((replace(fault, **changes), endpoint, when))

    def mix(
        self, seed: int, rate: float, names: Iterable[str], *, endpoint: str, **changes: Any
    ) -> None:
        """Meet each request with a fault at this rate. `changes` applies to the faults that have
        such a field set: `seconds=0.05` to the slow ones, and so on."""
        with self._lock:
            self._mixes[endpoint] = _Mix(seed, rate, list(names), changes)

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._mixes.clear()

    def waiting(self) -> int:
        """How many queued faults have not met their request yet."""
        return len(self._queue)

    def meet(self, endpoint: str, text: str, key: str | None = None) -> Fault | None:
        """``key``: what a mix knows the request by. By default that is its body, and of batches
        and files the endpoint: those have ids in them that no two runs share."""
        with self._lock:
            fault = self._queued(endpoint, text)
            if fault is None and (mix := self._mixes.get(endpoint)):
                fault = mix.draw(key or (text if endpoint in ("messages", "chat") else endpoint))
            if fault is not None:
                self.fired[fault.name] += 1
            return fault

    def _queued(self, endpoint: str, text: str) -> Fault | None:
        for place, (fault, where, when) in enumerate(self._queue):
            if where == endpoint and when(text):
                del self._queue[place]
                return fault
        return None
