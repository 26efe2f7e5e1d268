"""Outcomes as the ledger's columns hold them, value by value as SQLite gives them back."""

from __future__ import annotations

import json
from typing import Any

from runner.json_text import compact
from runner.ledger.money import to_pico
from runner.types import Outcome


def columns(outcome: Outcome) -> tuple[Any, ...]:
    """Of ``outcomes``, but for the first three and ``waits_for``."""
    by, why = outcome.decided_by, outcome.reason
    return (
        # As plain text: SQLite's module looks for an adapter of whatever is not quite a text.
        str(outcome.status), compact(outcome.value), by and str(by), why and str(why),
        real(outcome.confidence), _by_field(outcome), outcome.model,
        to_pico(outcome.cost_usd), outcome.error, to_pico(outcome.closed_estimate),
    )  # fmt: skip


def _by_field(outcome: Outcome) -> str:
    return compact(dict(outcome.field_confidence)) if outcome.field_confidence else "{}"


def real(value: float | None) -> float | None:
    """No whole number, no −0, no NaN: SQLite would change it, and the trail would not agree."""
    return None if value is None or value != value else float(value) + 0.0


def was(former: tuple[str, str | None, str | None, str] | None) -> dict[str, Any]:
    """What a change is about to overwrite, for its entry."""
    if former is None:
        return {}
    status, reason, decided_by, value = former
    return {"was": [status, reason, decided_by, json.loads(value)]}
