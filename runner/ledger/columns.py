"""Converts outcomes to and from the ledger's columns, as SQLite returns their values."""

from __future__ import annotations

import json
from typing import Any

from runner.formats.json_text import compact
from runner.ledger.money import to_pico
from runner.types import DecidedBy, Outcome, Reason


def columns(outcome: Outcome) -> tuple[Any, ...]:
    """Of ``outcomes``, but for the first three and ``waits_for``."""
    by, why = outcome.decided_by, outcome.reason
    return (
        # As plain text: SQLite's module looks for an adapter of whatever is not quite a text.
        str(outcome.status), compact(outcome.value), by and str(by), why and str(why),
        real(outcome.confidence), _by_field(outcome), outcome.model,
        to_pico(outcome.cost_usd), outcome.error, to_pico(outcome.closed_estimate), outcome.words,
    )  # fmt: skip


def _by_field(outcome: Outcome) -> str:
    return compact(dict(outcome.field_confidence)) if outcome.field_confidence else "{}"


def real(value: float | None) -> float | None:
    """No whole number, no −0, no NaN: SQLite would change it, and the trail would not agree."""
    return None if value is None or value != value else float(value) + 0.0


def read_reason(
    why: str | None, words: str | None, by: str | None = None
) -> tuple[Reason | None, str | None]:
    """(ours, the rule's own words). Before `words` had a column of their own they stood in the
    other; `runner.ledger.migrating` has moved all that could be mistaken for ours."""
    if why is None or (reason := _REASON.get(why)) is not None:
        return (None if why is None else reason), words
    return (Reason.TEMPLATE if by == DecidedBy.TEMPLATE else Reason.RULE), why


def shown_reason(why: str | None, words: str | None) -> Reason | str:
    """What is shown of these two columns: a reason of ours, or the words, which may read alike."""
    reason, own = read_reason(why, words)
    return own if own is not None else reason or ""


_REASON = {str(reason): reason for reason in Reason}


def was(former: tuple[str, str | None, str | None, str] | None) -> dict[str, Any]:
    """The values that a change is about to overwrite, for its trail entry."""
    if former is None:
        return {}
    status, reason, decided_by, value = former
    return {"was": [status, reason, decided_by, json.loads(value)]}
