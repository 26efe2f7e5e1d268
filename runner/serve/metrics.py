"""Counts for Prometheus, in a registry of the server's own.

Whatever the ledger knows is asked of it when somebody looks. A label has few values: a reason that
is neither ours nor one of the job's rules' counts as ``other``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from runner.serve.answered import Answered
from runner.types import Reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_HISTOGRAMS = {
    "total": ("surelocal_request_seconds", "From a request's arrival to its settled answer."),
    "local": (
        "surelocal_local_seconds",
        "From handing a request to the local model until it was decided.",
    ),
    "closed": (
        "surelocal_closed_seconds",
        "A request's calls to the closed model, and the pauses between them.",
    ),
}

Look = Callable[[], float]


class Metrics:
    """``reasons``: those of the job's own rules. ``gauges``: what is asked for when somebody looks,
    by name (without the prefix), with its help and, for several of a kind, the label's name and
    value. ``deaths``: how often the local engine has died so far."""

    def __init__(
        self,
        reasons: Iterable[str],
        gauges: Mapping[tuple[str, str, str, str], Look],
        deaths: Look,
    ) -> None:
        self._registry = CollectorRegistry()
        self._reasons = {*map(str, Reason), *reasons}
        self._ended = self._counter(
            "requests", "Settled requests by how they ended.", "status", "decided_by", "reason"
        )
        self._refused = self._counter(
            "refused", "Requests that were turned away before they were a record.", "code"
        )
        self._replies = self._counter("http_responses", "Replies by HTTP status.", "code")
        self._tokens = self._counter(
            "tokens", "Generated here, or paid for, by this process.", "model", "type"
        )
        for model in ("local", "closed"):
            for kind in ("input", "output"):
                self._tokens.labels(model, kind)
        self._restarts = self._counter("engine_restarts", "How often the local engine died.")
        self._deaths, self._counted = deaths, 0.0
        self._seconds = {
            name: Histogram(metric, says, buckets=_SECONDS, registry=self._registry)
            for name, (metric, says) in _HISTOGRAMS.items()
        }
        self.in_flight = Gauge(
            "surelocal_requests_in_flight", "Requests at work.", registry=self._registry
        )
        self._look(gauges)
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"surelocal_{name}", says, labels, registry=self._registry)

    def _look(self, gauges: Mapping[tuple[str, str, str, str], Look]) -> None:
        known: dict[str, Gauge] = {}
        for (name, says, label, value), look in gauges.items():
            if name not in known:
                labels = (label,) if label else ()
                known[name] = Gauge(f"surelocal_{name}", says, labels, registry=self._registry)
            one = known[name].labels(value) if label else known[name]
            one.set_function(look)

    def settled(self, answered: Answered) -> None:
        outcome, took = answered.outcome, answered.took
        reason = str(outcome.shown_reason or "none")
        if reason != "none" and reason not in self._reasons:
            reason = "other"
        self._ended.labels(str(outcome.status), str(outcome.decided_by or "nobody"), reason).inc()
        for model, (read, said) in (("local", took.local_tokens), ("closed", took.closed_tokens)):
            self._tokens.labels(model, "input").inc(read)
            self._tokens.labels(model, "output").inc(said)
        for name, seconds in (("local", took.local_s), ("closed", took.closed_s)):
            if seconds is not None:
                self._seconds[name].observe(seconds)

    def replied(self, status: int, seconds: float | None = None) -> None:
        """``seconds``: of a request that came to be settled."""
        self._replies.labels(str(status)).inc()
        if seconds is not None:
            self._seconds["total"].observe(seconds)

    def refused(self, status: int) -> None:
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        deaths = self._deaths()
        self._restarts.inc(deaths - self._counted)
        self._counted = deaths
        return generate_latest(self._registry)
