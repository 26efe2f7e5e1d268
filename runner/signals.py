"""Completions → numbers. Pure functions; natural logs in, probabilities out.

Only tokens of the answer's *values* count. Under a constraint the tokens in between (braces, key
names) are forced and carry no information: over all tokens of a JSON answer the first token's
probability ranks answers worse than chance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # public in CPython, not in stubs
from statistics import fmean

from runner.types import Completion

Span = tuple[int, int]

_decoder = json.JSONDecoder()
_SPACE = " \t\r\n"


def value_spans(text: str) -> dict[str, Span]:
    """The character span of each top-level value of a JSON object, quotes included.

    Raises:
        ValueError: the text is not one JSON object.
    """
    spans: dict[str, Span] = {}
    at = _expect(text, len(text) - len(text.lstrip()), "{")
    if text[at : at + 1] == "}":
        return spans
    while True:
        key, at = scanstring(text, _expect(text, at, '"', skip=False), True)
        at = _expect(text, _skip(text, at), ":")
        _, end = _decoder.raw_decode(text, at)
        spans[key] = (at, end)
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return spans
        at = _expect(text, at, ",")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, character: str, *, skip: bool = True) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character!r} at character {at}")
    return _skip(text, at + 1) if skip else at + 1


def _in_span(completion: Completion, span: Span) -> Iterator[float]:
    """The logprobs of the tokens that overlap the span."""
    assert completion.logprobs is not None
    start = 0
    for piece, logprob in zip(completion.tokens, completion.logprobs, strict=True):
        end = start + len(piece)
        if start < span[1] and end > span[0]:
            yield logprob
        start = end


def field_logprobs(completion: Completion) -> dict[str, tuple[float, ...]]:
    """The value tokens' logprobs of each top-level field of a JSON answer, in its order."""
    spans = value_spans(completion.text)
    return {name: tuple(_in_span(completion, span)) for name, span in spans.items()}


def probability(logprobs: tuple[float, ...]) -> float:
    """exp Σ log p, in [0, 1]: the probability of these tokens, given all before them."""
    return min(1.0, math.exp(math.fsum(logprobs)))


def token_signals(logprobs: tuple[float, ...]) -> dict[str, float]:
    """Sequence, least and mean token probability, each in [0, 1]."""
    if not logprobs:
        return {}
    return {
        "sequence_probability": probability(logprobs),
        "least_probability": math.exp(min(logprobs)),
        "mean_probability": min(1.0, math.exp(fmean(logprobs))),
    }


def usable(logprobs: Mapping[str, tuple[float, ...]]) -> bool:
    """False where any is not a finite number at most 0 (to rounding): such signals mislead."""
    return all(math.isfinite(x) and x <= 1e-3 for field in logprobs.values() for x in field)
