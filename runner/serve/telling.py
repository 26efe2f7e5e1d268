"""A request as a log's line and a span tell of it: by its figures, and by none of its texts."""

from __future__ import annotations

from typing import Any

from runner.events import tell
from runner.observe.tracing import LOCAL
from runner.serve.answered import Answered
from runner.serve.replies import Refusal
from runner.types import Event, Level, notice

End = Answered | Refusal | None
"""Answered, refused, or left by its client."""


def log(status: int, seconds: float, end: End, *, private: bool) -> None:
    """One ``request`` event. ``private``: an id that a client gave is not written down."""
    fields: dict[str, Any] = {"status_code": status, "seconds": round(seconds, 6)}
    if isinstance(end, Refusal):
        fields |= {"code": end.code}
    if isinstance(end, Answered):
        outcome, took = end.outcome, end.took
        fields |= {
            "record": outcome.position,
            "record_id": None if took.named and private else outcome.record_id,
            **_figures(end),
            "local_s": _short(took.local_s),
            "closed_s": _short(took.closed_s),
            "local_tokens": sum(took.local_tokens),
            "closed_tokens": sum(took.closed_tokens),
        }
    level = Level.WARNING if status >= 500 else None
    tell(notice(Event.REQUEST, f"answered with {status}", level, **fields))


def attributes(model: str, status: int, end: End) -> dict[str, Any]:
    """Of the request's span."""
    found: dict[str, Any] = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": status,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": LOCAL,
        "gen_ai.request.model": model,
    }
    if status >= 500:
        found["error.type"] = str(status)
    if isinstance(end, Answered):
        read, _, said = end.tokens
        found |= {"gen_ai.usage.input_tokens": read, "gen_ai.usage.output_tokens": said}
        found |= {"gen_ai.response.model": end.outcome.model}
        found |= {f"surelocal.{name}": value for name, value in _figures(end).items()}
    return {name: value for name, value in found.items() if value is not None}


def _figures(answered: Answered) -> dict[str, Any]:
    outcome = answered.outcome
    return {
        "status": str(outcome.status),
        "decided_by": str(outcome.decided_by) if outcome.decided_by else None,
        "reason": str(outcome.shown_reason) if outcome.reason else None,
        "waits_for": answered.waits_for,
        "confidence": outcome.confidence,
        "cost_usd": float(outcome.cost_usd),
    }


def _short(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
