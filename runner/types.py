"""The types that all parts share: plain frozen dataclasses, with the standard library only.

A record passes through ``Record → Prompt → Completion → Answer → Outcome`` (see README, "How it
works"). Money is `decimal.Decimal` US dollars in Python; only the ledger stores it as integers
(`runner.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform

from runner.notices import Event as Event
from runner.notices import Level as Level
from runner.notices import Notice as Notice
from runner.notices import Say as Say
from runner.notices import notice as notice
from runner.notices import unheard as unheard
from runner.reasons import DecidedBy as DecidedBy
from runner.reasons import Reason as Reason
from runner.reasons import Route as Route
from runner.reasons import Status as Status

JSONValue = Any
"""A value of `json.loads`: str, int, float, bool, None, list or dict."""

T = TypeVar("T")


class Whole(Enum):
    """The name of the whole answer. It is not a string, so it cannot equal a field's name."""

    WHOLE = "the whole answer"


WHOLE: Literal[Whole.WHOLE] = Whole.WHOLE
Name = str | Whole
"""The key of a score, a label or a confidence: a field of the answer, or `WHOLE`."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A dataclass with slots that only the type checker treats as frozen.

    A dataclass frozen at run time sets each field by a function call, which took a tenth of a
    record's time. Used for types with several objects per record.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@frozen
class Record:
    """One input record. ``position`` counts from 0 in input order; ``line`` from 1 in the file.

    A record that could not be read has a ``problem`` (one sentence) and the fields that could be
    read; it still has a row in the results. ``raw`` holds the fields as read, if `records.types`
    converted them.
    """

    position: int
    id: str
    fields: Mapping[str, Any]
    line: int
    problem: str | None = None
    raw: Mapping[str, Any] | None = None

    @property
    def given(self) -> Mapping[str, Any]:
        """The fields as read, which identify the record."""
        return self.fields if self.raw is None else self.raw


@frozen
class Message:
    """A chat message. ``cacheable``: it is the same for every record, so a provider may cache it.
    ``own``: the spans of the content that are the job's text, not a record's."""

    role: str
    content: str
    cacheable: bool = False
    own: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form of an answer: JSON by a schema, one of some labels, or (neither) free text."""

    schema: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to generate. ``extra`` is passed to the engine as further sampling parameters.

    ``top_logprobs``: the number of alternatives to return for each token (from 0 to the engine's
    maximum, 20 with vLLM). ``n``: the number of answers to sample for one prompt (at least 1); the
    seed of the i-th is ``seed + i``.
    """

    temperature: float = 0.0
    max_tokens: int = 256
    seed: int | None = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    top_logprobs: int = 0
    n: int = 1


@frozen
class Prompt:
    """A prompt. ``own``: the sampling that its record sets (by the names of `Sampling`; ``extra``
    is merged)."""

    messages: tuple[Message, ...]
    constraint: Constraint = Constraint()
    own: Mapping[str, Any] = field(default_factory=dict)

    def sampling(self, usual: Sampling) -> Sampling:
        """``usual`` with the record's settings."""
        if not self.own:
            return usual
        extra = {**usual.extra, **self.own.get("extra", {})}
        return replace(usual, **{**self.own, "extra": extra})


@frozen
class Usage:
    """Token counts of the engine or provider. The cache counts are Anthropic's: prompt =
    ``input_tokens + cache_write_5m + cache_write_1h + cache_read``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0


Alternatives = tuple[tuple[str, float], ...]
"""The alternatives of one token: (text piece, natural logprob), best first."""


@frozen
class Completion:
    """One generated answer.

    ``tokens`` are the answer's text pieces in order and join to ``text`` (an end token is the
    empty piece); ``logprobs`` are natural logs under the distribution sampled from, after the
    constraint, one per token, or ``None`` if the engine has none. A thinking model's reasoning is
    in ``reasoning`` only.

    ``top`` has each token's alternatives under the same distribution, including the token itself (a
    sampled token only if it is one of the best); impossible ones are left out. It is empty if none
    were requested or the engine has none. ``samples`` are the texts of all answers if several were
    requested; the first is ``text``. All other attributes describe that one, except ``usage``,
    which counts all.
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
    """The interface of a local engine; a closed provider's courier has the same one.

    ``window`` is the number of concurrent prompts that keeps the engine busy.
    """

    @property
    def window(self) -> int: ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Raises `runner.errors.RecordError` if only this prompt fails, `EngineError` if all do."""
        ...

    async def aclose(self) -> None: ...


@frozen
class Answer:
    """A completion, parsed and scored.

    ``score`` in [0, 1] is the model's probability of the values; it ranks answers and is compared
    with thresholds. ``confidence`` is the score, or P(correct) if ``calibrated``. Both are ``None``
    without logprobs. ``scores`` are the scores of each field and, under `WHOLE`, of the whole
    answer; never calibrated, empty without logprobs. ``cut_off``: it is not valid because it
    reached its maximum length.
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
    scores: Mapping[Name, float] = field(default_factory=dict)
    input_tokens: int = 0
    cut_off: bool = False


@frozen
class Outcome:
    """The outcome of one record. The texts below describe the result row's columns in the
    reference."""

    position: int
    """The record's position in the input, from 0; rows are in this order."""
    record_id: str
    """The record's id, as text."""
    status: Status
    """How the record ended, or what it waits for."""
    value: JSONValue = None
    """The answer: an object by `answer.schema`, otherwise text; null until there is one."""
    decided_by: DecidedBy | None = None
    """Who gave the answer; null until there is one."""
    reason: Reason | None = None
    """Why it has this status: one of the reasons below, or the `reason` of a rule."""
    confidence: float | None = None
    """The confidence of the local answer, from 0 to 1, to four digits, whoever decided in the end;
    if the job is calibrated, the probability that it is right. Null without a local answer or
    without logprobs."""
    field_confidence: Mapping[str, float] = field(default_factory=dict)
    """The confidence of each field of an object; empty for labels and text."""
    model: str | None = None
    """The model that gave the answer or, while the record waits, the answer that was not accepted;
    null if no model was asked."""
    cost_usd: Decimal = Decimal(0)
    """The amount paid to the closed model's provider, in US dollars, including lost replies."""
    error: str | None = None
    """One sentence that says what is wrong and how to fix it; null if nothing is wrong."""
    closed_estimate: Decimal = Decimal(0)
    """The estimated cost with the closed model, in US dollars; no column."""
    words: str | None = None
    """The rule's `reason`, shown instead of ``reason``; no column. It is only shown, and may be any
    text, even one of the codes in `Reason`."""

    @property
    def shown_reason(self) -> str | None:
        """The reason shown to a person."""
        return self.reason if self.words is None else self.words
