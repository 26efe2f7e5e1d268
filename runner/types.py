"""The vocabulary that every part shares: plain frozen dataclasses, standard library only.

A record's way is ``Record → Prompt → Completion → Answer → Outcome`` (see README, "How it
works"). Money is `decimal.Decimal` US dollars everywhere in Python; only the ledger's columns
hold it as integers (`runner.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

JSONValue = Any
"""Whatever `json.loads` gives: str, int, float, bool, None, list or dict."""


class Status(StrEnum):
    """How a record ends (the ``status`` of a result row)."""

    DONE = "done"
    WAITING = "waiting"
    REVIEW = "review"
    ERROR = "error"


class DecidedBy(StrEnum):
    """Who gave the answer that stands (the ``decided_by`` of a result row)."""

    TEMPLATE = "template"
    LOCAL = "local"
    CLOSED = "closed"
    HUMAN = "human"


class Route(StrEnum):
    """Where a record goes before any model has seen it."""

    TEMPLATE = "template"
    LOCAL = "local"
    CLOSED = "closed"
    REVIEW = "review"


class Reason(StrEnum):
    """Why an outcome is what it is. A route rule's own ``reason:`` may stand instead."""

    TEMPLATE = "template"
    CONFIDENT = "confident"
    UNSURE = "unsure"
    INVALID = "invalid_answer"
    NO_CONFIDENCE = "no_confidence"
    UNCERTIFIED = "nothing_certified"
    AUDIT = "audit"
    ALARM = "audit_alarm"
    TEACHER = "teacher"
    EXPECTED_LOSS = "expected_loss"
    BUDGET_ELSEWHERE = "budget_elsewhere"
    RULE = "rule"
    KEPT_LOCAL = "kept_local"
    NO_KEY = "no_key"
    BUDGET = "budget"
    DAILY_BUDGET = "daily_budget"
    RECORD_TOO_DEAR = "record_too_dear"
    PROVIDER_HALTED = "provider_halted"
    PROVIDER_BUSY = "provider_busy"
    REPLY_LOST = "reply_lost"
    REJECTED = "rejected_by_provider"
    CLOSED_INVALID = "closed_invalid"
    REDACTION = "redaction_failed"
    BAD_RECORD = "bad_record"
    BAD_PROMPT = "bad_prompt"
    ENGINE_DIED = "engine_died"


@dataclass(frozen=True, slots=True)
class Record:
    """One input record. ``position`` counts from 0 in input order; ``line`` from 1 in the file.

    A record that could not be read has a ``problem`` (one sentence) and whatever fields were
    legible; it still has its place in the results.
    """

    position: int
    id: str
    fields: Mapping[str, Any]
    line: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """``cacheable``: the same for every record, so that a provider may keep it between calls."""

    role: str
    content: str
    cacheable: bool = False


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer may be: JSON of a schema, one of some labels, or (neither) free text."""

    schema: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate. ``extra`` passes through to the engine's own sampling parameters.

    ``top_logprobs``: how many alternatives of each token to give (0 to what the engine allows, 20
    with vLLM). ``n``: how many answers to draw to one prompt (from 1 up); the seed of the i-th is
    ``seed + i``.
    """

    temperature: float = 0.0
    max_tokens: int = 256
    seed: int | None = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0
    n: int = 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """``own``: what its record itself asks of the sampling (`Sampling`'s names; ``extra`` is added
    to)."""

    messages: tuple[Message, ...]
    constraint: Constraint = Constraint()
    own: Mapping[str, Any] = field(default_factory=dict)

    def sampling(self, usual: Sampling) -> Sampling:
        """As usual, but for what the record asks for."""
        if not self.own:
            return usual
        extra = {**usual.extra, **self.own.get("extra", {})}
        return replace(usual, **{**self.own, "extra": extra})


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine or provider counted them; the cache counts are Anthropic's notion:
    prompt = ``input_tokens + cache_write_5m + cache_write_1h + cache_read``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0


Alternatives = tuple[tuple[str, float], ...]
"""What could have stood in one token's place: (text piece, natural logprob), best first."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer.

    ``tokens`` are the answer's text pieces in order and join to ``text`` (an end token is the
    empty piece); ``logprobs`` are natural logs under the distribution sampled from, after the
    constraint, one per token, or ``None`` where the engine has none. A thinking model's
    reasoning stands in ``reasoning`` and in neither of them.

    ``top`` has each token's alternatives under that same distribution, the token itself among
    them (with a drawn token, where it is one of the best); impossible ones are left out. It is
    empty where none were asked for or the engine has none. ``samples`` are the texts of all
    answers where several were asked for; the first is ``text``, and all else speaks of that one,
    but for ``usage``, which counts them all.
    """

    text: str
    model: str
    finish_reason: str
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] | None = None
    usage: Usage = Usage()
    reasoning: str | None = None
    top: tuple[Alternatives, ...] = ()
    samples: tuple[str, ...] = ()


class Engine(Protocol):
    """One method to implement; a closed provider's courier has the same shape.

    ``window`` is how many prompts the engine wants in flight at once to stay busy.
    """

    window: int

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Raises `runner.errors.RecordError` for this prompt alone, `EngineError` for all."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion, parsed and judged.

    ``score`` in [0, 1] is the model's own probability of the values; it ranks answers and is what
    thresholds are compared with. ``confidence`` is the score as it is, or calibrated to P(correct)
    where ``calibrated`` says so. Both are ``None`` without logprobs. ``scores`` are the scores of
    each field and, under ``""``, of the whole answer; never calibrated, empty without logprobs.
    """

    value: JSONValue
    valid: bool
    problem: str | None
    signals: Mapping[str, float]
    score: float | None
    confidence: float | None
    field_confidence: Mapping[str, float]
    model: str
    output_tokens: int = 0
    calibrated: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one record ended. ``closed_estimate`` is what the closed model would have cost."""

    position: int
    record_id: str
    status: Status
    value: JSONValue = None
    decided_by: DecidedBy | None = None
    reason: str | None = None
    confidence: float | None = None
    field_confidence: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    cost_usd: Decimal = Decimal(0)
    error: str | None = None
    closed_estimate: Decimal = Decimal(0)
