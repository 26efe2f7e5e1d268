"""Counts for Prometheus, in a registry of the server's own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runner.serve.serving import Answered

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """``spent_usd`` is asked for when somebody looks."""

    def __init__(self, spent_usd: Callable[[], float], at_work: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "localfirst_requests", "Requests by how they ended.", ("status", "decided_by"),
            registry=self._registry,
        )  # fmt: skip
        self._refused = Counter(
            "localfirst_refused", "Requests that became no record, by HTTP status.", ("code",),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "localfirst_request_seconds", "From a request's arrival to its settled answer.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        spent = Gauge(
            "localfirst_spent_usd", "Spent, or possibly spent, in this run directory.",
            registry=self._registry,
        )  # fmt: skip
        spent.set_function(spent_usd)
        gauge = Gauge("localfirst_at_work", "Requests at work.", registry=self._registry)
        gauge.set_function(at_work)

    def answered(self, answered: Answered, seconds: float) -> None:
        outcome = answered.outcome
        self._answers.labels(str(outcome.status), str(outcome.decided_by or "nobody")).inc()
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
