"""How a request ended, what that took, and the paid part of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from runner.ledger import Ledger
from runner.results.openai_batch import paid_tokens
from runner.types import DecidedBy, JSONValue, Outcome, Status

NO_TOKENS = (0, 0, 0)


@dataclass(slots=True)
class Took:
    """What one settled request took. ``local_s``: from handing it to the engine until it was
    decided, ``closed_s``: all of its calls and the pauses between them; None where there was no
    such thing. Tokens are (prompt, answer) and count what was paid or generated for this very
    request; further looks are not in them."""

    local_s: float | None = None
    closed_s: float | None = None
    local_tokens: tuple[int, int] = (0, 0)
    closed_tokens: tuple[int, int] = (0, 0)
    anew: bool = False
    """Whether it was decided by this request, and not by a former one of its name."""
    named: bool = False
    """Whether the client gave the record its id."""


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request ended. ``local``: the local model's value, where one was made that may not
    stand. ``waits_for``: why a waiting record was not sent. ``tokens``: as
    `runner.results.openai_batch.chat_completion` takes them."""

    outcome: Outcome
    tokens: tuple[int, int, int] = NO_TOKENS
    local: JSONValue = None
    local_model: str | None = None
    waits_for: str | None = None
    took: Took = field(default_factory=Took)


def paid_since(ledger: Ledger, first: int, position: int) -> tuple[int, int]:
    """(prompt, answer) tokens of a record's calls from that attempt on, those of a cache too."""
    ((read, said),) = ledger.query(
        "SELECT SUM(json_extract(usage, '$.input_tokens') "
        "+ json_extract(usage, '$.cache_write_5m') + json_extract(usage, '$.cache_write_1h') "
        "+ json_extract(usage, '$.cache_read')), SUM(json_extract(usage, '$.output_tokens')) "
        "FROM attempts WHERE position=? AND id>=? AND usage IS NOT NULL",
        (position, first),
    )
    return read or 0, said or 0


def answered_as(ledger: Ledger, record_id: str, position: int, took: Took) -> Answered:
    """How a settled request ended, by the ledger."""
    outcome = ledger.find(record_id)
    assert outcome is not None
    tokens = _tokens(ledger, outcome, took)
    if outcome.status is Status.DONE:
        return Answered(outcome, tokens, took=took)
    ((waits_for, kept),) = ledger.query(
        "SELECT o.waits_for, h.answer FROM outcomes o LEFT JOIN held h USING (position) "
        "WHERE o.position=?",
        (position,),
    )
    local: dict[str, Any] = json.loads(kept or "null") or {}
    return Answered(outcome, tokens, local.get("value"), local.get("model"), waits_for, took)


def _tokens(ledger: Ledger, outcome: Outcome, took: Took) -> tuple[int, int, int]:
    if outcome.decided_by is DecidedBy.CLOSED:
        return paid_tokens(ledger, outcome.position) or NO_TOKENS
    if not took.anew:
        return _former_tokens(ledger, outcome.position)
    return took.local_tokens[0], 0, took.local_tokens[1]


def _former_tokens(ledger: Ledger, position: int) -> tuple[int, int, int]:
    """Of an answer that a former process made, or that is asked for once more."""
    for entry in ledger.trail.of(position):
        if entry.note and (counted := json.loads(entry.note).get("tokens")):
            return counted[0], 0, counted[1]
    return NO_TOKENS
