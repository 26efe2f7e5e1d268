"""Paces requests by the rate limits in the provider's response headers.

A request does not begin if the provider would refuse it for its rate. Until a limit resets, only
the remainder in its headers is used, which is correct whether the server refills steadily or all at
once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from escalation.providers.prices import BYTES_A_TOKEN
from escalation.providers.protocol import Reply
from runner.types import Usage

FIRST_AT_ONCE = 4
"""How many requests begin before the first reply, which carries the limits."""
POLL_S = 0.05
_LEARN = 0.2  # the weight of each new reply in the estimate of what a request uses
_MINUTE = 60.0
_ROUNDING_S = 1e-6

Need = Mapping[str, float]
"""What a request uses, by the names of `escalation.providers.rate_headers.Limits`."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A request in progress, with the totals of those that had ended when it began."""

    need: Need
    size: int
    ended: Need


@dataclass(slots=True)
class _Bucket:
    limit: float
    level: float
    full_at: float


@dataclass(slots=True)
class Pace:
    """Paces all requests of a run. Call `pause`; when it returns 0, call `begin` at once."""

    max_tokens: int
    requests_per_minute: int | None = None
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, _Bucket] = field(default_factory=dict)
    _flying: dict[str, float] = field(default_factory=dict)
    _ended: dict[str, float] = field(default_factory=dict)
    _leave: deque[float] = field(default_factory=deque)
    _held_until: float = 0.0
    _heard: bool = False
    _per_byte: float = 1 / BYTES_A_TOKEN
    _output: float | None = None

    def pause(self, size: int) -> float:
        """Seconds for which a request of ``size`` bytes must not begin; 0 if it may begin now."""
        if not self._heard and self._flying.get("requests", 0) >= FIRST_AT_ONCE:
            return POLL_S
        return max(self.refused_for(size), self._own(self.clock()))

    def refused_for(self, size: int) -> float:
        """Seconds for which the provider would refuse the request."""
        now, need = self.clock(), self._need(size)
        pauses = [self._short_for(name, need.get(name, 0), now) for name in self._buckets]
        return max(0.0, self._held_until - now, *pauses)

    def begin(self, size: int) -> Flight:
        need = self._need(size)
        flight = Flight(need, size, dict(self._ended))
        for name, amount in need.items():
            self._flying[name] = self._flying.get(name, 0) + amount
            if name in self._buckets:
                self._buckets[name].level -= amount
        self._leave.append(self.clock() + _MINUTE)
        return flight

    def end(self, flight: Flight, reply: Reply | None, usage: Usage | None = None) -> None:
        """Records a reply; ``None`` if the request was not sent or its outcome is unknown."""
        for name, amount in flight.need.items():
            self._flying[name] -= amount
            self._ended[name] = self._ended.get(name, 0) + amount
        if reply is None:
            return
        self._heard = True
        if reply.verdict == "retry" and reply.retry_after_s is not None:
            # This is the rate of all requests, so all of them wait.
            self._held_until = max(self._held_until, self.clock() + reply.retry_after_s)
        if usage is not None:
            self._learn(flight.size, usage)
        for name, (limit, remaining, reset_s) in (reply.limits or {}).items():
            # The server may not have counted the other requests in progress.
            beside = self._flying.get(name, 0) + self._ended.get(name, 0)
            beside -= flight.ended.get(name, 0) + flight.need.get(name, 0)
            level = remaining - beside
            self._buckets[name] = _Bucket(limit, level, self.clock() + reset_s)

    def forget(self) -> None:
        """Forgets the provider's limits: after a stop, a long pause that it once named must not
        hold requests back for good."""
        self._buckets.clear()
        self._held_until = 0.0

    def _need(self, size: int) -> Need:
        tokens = size * self._per_byte
        output = self.max_tokens if self._output is None else self._output
        whole = size / BYTES_A_TOKEN + self.max_tokens
        return {"requests": 1.0, "input": tokens, "output": output, "tokens": whole}

    def _learn(self, size: int, usage: Usage) -> None:
        # Tokens read from a cache do not count towards any limit.
        counted = usage.input_tokens + usage.cache_write_5m + usage.cache_write_1h
        self._per_byte += _LEARN * (counted / max(size, 1) - self._per_byte)
        known = usage.output_tokens if self._output is None else self._output
        self._output = known + _LEARN * (usage.output_tokens - known)

    def _short_for(self, name: str, need: float, now: float) -> float:
        bucket, flying = self._buckets[name], self._flying.get(name, 0)
        if now >= bucket.full_at:
            bucket.level, bucket.full_at = bucket.limit - flying, float("inf")
        if bucket.level >= min(need, bucket.limit):  # a bucket never holds more than its limit
            return 0.0
        if bucket.full_at == float("inf"):
            return POLL_S if flying > 0 else 0.0  # the next reply will say
        return bucket.full_at - now

    def _own(self, now: float) -> float:
        """Seconds to wait for the job's limit of requests per minute."""
        if self.requests_per_minute is None:
            self._leave.clear()
            return 0.0
        while self._leave and now >= self._leave[0]:
            self._leave.popleft()
        if len(self._leave) < self.requests_per_minute:
            return 0.0
        # Slightly more, so that rounding does not end the pause just before the minute is over.
        return self._leave[0] - now + _ROUNDING_S
