"""How a request ended, what that took, and the paid part of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from runner.ledger import Ledger
from runner.ledger.bills import NO_TOKENS, Tokens
from runner.types import DecidedBy, JSONValue, Outcome, Status


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
    stand. ``waits_for``: why a waiting record was not sent."""

    outcome: Outcome
    tokens: Tokens = NO_TOKENS
    local: JSONValue = None
    local_model: str | None = None
    waits_for: str | None = None
    took: Took = field(default_factory=Took)


def paid_since(ledger: Ledger, first: int, position: int) -> tuple[int, int]:
    """(prompt, answer) tokens of a record's calls from that attempt on, those of a cache too."""
    tokens = ledger.bills.tokens_since(position, first)
    return tokens.prompt, tokens.answer


def answered_as(ledger: Ledger, record_id: str, position: int, took: Took) -> Answered:
    """How a settled request ended, by the ledger."""
    outcome = ledger.find(record_id)
    assert outcome is not None
    tokens = _tokens(ledger, outcome, took)
    if outcome.status is Status.DONE:
        return Answered(outcome, tokens, took=took)
    left = ledger.reading.undone(position)
    local = left.local
    return Answered(outcome, tokens, local.get("value"), local.get("model"), left.waits_for, took)


def _tokens(ledger: Ledger, outcome: Outcome, took: Took) -> Tokens:
    if outcome.decided_by is DecidedBy.CLOSED:
        return ledger.bills.answer_tokens(outcome.position) or NO_TOKENS
    if not took.anew:
        return _former_tokens(ledger, outcome.position)
    return Tokens(took.local_tokens[0], 0, took.local_tokens[1])


def _former_tokens(ledger: Ledger, position: int) -> Tokens:
    """Of an answer that a former process made, or that is asked for once more."""
    for entry in ledger.trail.of(position):
        if entry.note and (counted := json.loads(entry.note).get("tokens")):
            return Tokens(counted[0], 0, counted[1])
    return NO_TOKENS
