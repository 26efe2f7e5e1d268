"""Whether an engine's logprobs mean what the confidence takes them to mean, asked of the engine.

They must be taken after the answer's constraint. Under one, a text that has no choice is certain
however improbable it is: so the engine is held to one of two nonsense labels with a long beginning
in common, which no model would write of itself, and that beginning must come out as certain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from runner.answering.answer_values import Value, field_values, whole_value
from runner.answering.value_probability import probability
from runner.errors import RecordError, UsageError
from runner.types import Completion, Constraint, Engine, Message, Prompt, Sampling

# Letters that no language puts in such an order, so that a tokenizer has few ways to split them.
_PAIRS = (
    ("qzxjvkwpqgzjx-one", "qzxjvkwpqgzjx-two"),
    ("jxqvzgkqwzjxv-left", "jxqvzgkqwzjxv-right"),
)
_FIELD = "answer"
# Both labels stay out of the prompt: a model that has read them would write them of itself.
_PROMPT = "Say hello."
_SAMPLING = Sampling(temperature=0.0, max_tokens=64, top_logprobs=5)
_ROOM_TO_THINK = 1024
# Mean natural logprob of a forced token. After the constraint it is near 0, and were every token
# one of two ways to split the text, −0.7; before it, a letter at random is −3 and less.
_FORCED = -1.0
_LEAST = 1e-300
_SHOWN = 60
# Of the label taken: with a greedy choice between two it is a half and more.
_CHOSEN = 0.25

_BEFORE = (
    "the engine's logprobs are taken before the answer's constraint, so they say nothing of its "
    "values: start a vLLM server with `--logprobs-mode processed_logprobs`, and leave "
    "`logprobs_mode` out of local.engine_args"
)
_NO_LOGPROBS = (
    "the engine's logprobs are none ({shown} among them), so its answers can have no confidence: "
    "leave `logprobs_mode` out of local.engine_args, or take another server"
)
_ZEROS = (
    "the engine's logprobs are all exactly 0, whatever it answers: the server fills them in "
    "without computing them, so take another server, or another engine"
)

_GIVES_NONE = (
    "the engine gives no logprobs, so no answer of its can have a confidence and every one would "
    "be escalated: take a server that gives them (`logprobs: true` of a chat completion), or "
    "another engine; `confidence: {threshold: 0}` takes every valid answer without"
)
_IGNORES_LABELS = (
    "the engine does not hold its answers to labels (it was given two, and said {said!r}): take a "
    "server that knows `structured_outputs`, as vLLM's does, or an `answer.schema` with an `enum` "
    "in the place of `answer.labels`"
)


async def engine_problem(engine: Engine, *, labels: bool, confidence: bool) -> str | None:
    """What is wrong with the engine for a job, and what fixes it, in a sentence: `logprob_problem`,
    or that it lacks what the job needs. ``labels``: its answers must be held to labels;
    ``confidence``: they must have one."""
    if problem := await logprob_problem(engine):
        return problem
    given = Constraint(labels=_PAIRS[0]) if labels else Constraint()
    completion = await _generate(engine, given) if labels or confidence else None
    if completion is None or not completion.text:
        return None
    if labels and not any(label.startswith(completion.text) for label in _PAIRS[0]):
        return _IGNORES_LABELS.format(said=completion.text[:_SHOWN])
    return _GIVES_NONE if confidence and not completion.logprobs else None


async def logprob_problem(engine: Engine) -> str | None:
    """What is wrong with the engine's logprobs and what fixes it, in a sentence.

    None where they can be relied on; and where that cannot be told: the engine gives none, or holds
    its answers neither to labels nor to a JSON schema. One or two short generations, or four.

    Raises:
        EngineError: the engine is not there.
    """
    for labels in _PAIRS:
        value = await _answer(engine, labels)
        if value is None:
            return None
        wrong = [p for p in value.logprobs if not (math.isfinite(p) and p <= 1e-3)]
        if wrong:
            return _NO_LOGPROBS.format(shown=f"{wrong[0]:g}")
        if any(value.logprobs):
            sure = probability(value) >= _CHOSEN and _mean_forced(value, labels) >= _FORCED
            return None if sure else _BEFORE
        # A choice may come out as certain to the last bit, but hardly twice.
    return _ZEROS


async def _answer(engine: Engine, labels: tuple[str, ...]) -> Value | None:
    """The label's tokens, or None where there is nothing to judge.

    Held to the labels themselves, and where the server does not know such a constraint, to a JSON
    schema: more servers do, but a small model may lose itself in the space that JSON allows.
    """
    completion = await _generate(engine, Constraint(labels=labels))
    if completion is not None and completion.text in labels:
        return whole_value(completion) if _has_logprobs(completion) else None
    schema = {
        "type": "object",
        "properties": {_FIELD: {"type": "string", "enum": list(labels)}},
        "required": [_FIELD],
        "additionalProperties": False,
    }
    completion = await _generate(engine, Constraint(schema=schema))
    if completion is None or not _is_one_of(completion, labels) or not _has_logprobs(completion):
        return None
    return field_values(completion)[_FIELD]


async def _generate(engine: Engine, constraint: Constraint) -> Completion | None:
    prompt = Prompt((Message("user", _PROMPT),), constraint)
    try:
        completion = await engine.generate(prompt, _SAMPLING)
        if completion.finish_reason == "length" and completion.reasoning is not None:
            more = replace(_SAMPLING, max_tokens=_ROOM_TO_THINK)
            completion = await engine.generate(prompt, more)
    except (RecordError, UsageError):
        return None  # if it is the job's to fix, its first record says so
    return completion


def _is_one_of(completion: Completion, labels: Sequence[str]) -> bool:
    try:
        return json.loads(completion.text)[_FIELD] in labels
    except (ValueError, TypeError, KeyError):
        return False


def _has_logprobs(completion: Completion) -> bool:
    """Whether there are any, one for each token of the text."""
    tokens, logprobs = completion.tokens, completion.logprobs or ()
    return "".join(tokens) == completion.text and len(tokens) == len(logprobs) > 0


def _mean_forced(value: Value, labels: Sequence[str]) -> float:
    """Mean natural logprob of the tokens within the labels' common beginning, each with those
    alternatives that split the same text otherwise."""
    end = value.text.index("-")
    begin = value.text.index(labels[0][0])
    forced, start = [], 0
    for index, (piece, own) in enumerate(zip(value.tokens, value.logprobs, strict=True)):
        if begin <= start and start + len(piece) <= end:
            others = [
                math.exp(logprob)
                for text, logprob in (value.top[index] if value.top else ())
                if text != piece and text and value.text.startswith(text, start)
            ]
            forced.append(math.log(max(_LEAST, math.exp(own) + math.fsum(others))))
        start += len(piece)
    return math.fsum(forced) / len(forced) if forced else 0.0
