"""The vocabulary that every part shares: plain frozen dataclasses, standard library only.

A record's way is ``Record → Prompt → Completion → Answer → Outcome`` (see README, "How it
works"). Money is `decimal.Decimal` US dollars everywhere in Python; only the ledger's columns
hold it as integers (`runner.ledger`).
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
"""Whatever `json.loads` gives: str, int, float, bool, None, list or dict."""

T = TypeVar("T")


class Whole(Enum):
    """The whole answer, among the names of its fields: no text, so no field can be called it."""

    WHOLE = "the whole answer"


WHOLE: Literal[Whole.WHOLE] = Whole.WHOLE
Name = str | Whole
"""What has a score, a label or a confidence of its own: a field of the answer, or `WHOLE`."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A dataclass with slots that is frozen to the type checker alone.

    Where Python is to see to it as well, it sets every field by a call: of a record's way through a
    run that was a tenth. For what each record has several of.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@frozen
class Record:
    """One input record. ``position`` counts from 0 in input order; ``line`` from 1 in the file.

    A record that could not be read has a ``problem`` (one sentence) and whatever fields were
    legible; it still has its place in the results. ``raw``: the fields as they stood there, where
    `records.types` made others of them.
    """

    position: int
    id: str
    fields: Mapping[str, Any]
    line: int
    problem: str | None = None
    raw: Mapping[str, Any] | None = None

    @property
    def given(self) -> Mapping[str, Any]:
        """What the record is known by: its fields as they stood there."""
        return self.fields if self.raw is None else self.raw


@frozen
class Message:
    """``cacheable``: the same for every record, so that a provider may keep it between calls.
    ``own``: the spans of the content that are the job's own words, no record's."""

    role: str
    content: str
    cacheable: bool = False
    own: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)


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


@frozen
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


@frozen
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


@frozen
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

    @property
    def window(self) -> int: ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """Raises `runner.errors.RecordError` for this prompt alone, `EngineError` for all."""
        ...

    async def aclose(self) -> None: ...


@frozen
class Answer:
    """A completion, parsed and judged.

    ``score`` in [0, 1] is the model's own probability of the values; it ranks answers and is what
    thresholds are compared with. ``confidence`` is the score as it is, or calibrated to P(correct)
    where ``calibrated`` says so. Both are ``None`` without logprobs. ``scores`` are the scores of
    each field and, under `WHOLE`, of the whole answer; never calibrated, empty without logprobs.
    ``cut_off``: it is not valid, since it had reached its longest.
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
    """How one record ended. The texts are the reference's, of the result row's columns."""

    position: int
    """The record's place in the input, from 0; rows stand in this order."""
    record_id: str
    """The record's id, as text."""
    status: Status
    """How it ended, or what it waits for."""
    value: JSONValue = None
    """The answer: an object by `answer.schema`, else text; null until there is one."""
    decided_by: DecidedBy | None = None
    """Who gave the answer; null until there is one."""
    reason: Reason | None = None
    """Why it ended so: one of the reasons below, or a rule's own."""
    confidence: float | None = None
    """Of the local answer, from 0 to 1, to four digits, whoever decided in the end: a probability
    of being right where the job is calibrated. Null without a local answer, or without logprobs."""
    field_confidence: Mapping[str, float] = field(default_factory=dict)
    """The same for each field of an object; empty for labels and text."""
    model: str | None = None
    """The model whose answer it is, or, while it waits, whose answer did not stand; null where no
    model was asked."""
    cost_usd: Decimal = Decimal(0)
    """What was paid for it at the closed model, in US dollars, lost replies included."""
    error: str | None = None
    """One sentence: what is wrong and what mends it; null where nothing is."""
    closed_estimate: Decimal = Decimal(0)
    """What the closed model would have cost, in US dollars; no column."""
    words: str | None = None
    """The rule's own reason, which is shown in the place of ours; no column, and nothing is decided
    by it: it may be any text, one of our words too."""

    @property
    def shown_reason(self) -> str | None:
        """What a person is shown as the reason."""
        return self.reason if self.words is None else self.words
