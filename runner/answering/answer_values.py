"""Assigns a completion's tokens to the values of its answer.

Only tokens of the answer's *values* count. Under a constraint, the tokens in between (braces, key
names) are forced and carry no information: over all tokens of a JSON answer, the first token's
probability ranks answers worse than chance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache

from runner.formats.json_text import read_string
from runner.types import Alternatives, Completion, Name, frozen

Span = tuple[int, int]

_decoder = json.JSONDecoder()
_SPACE = " \t\r\n"
_DIGITS = tuple("0123456789")
OF_A_NUMBER = "0123456789.eE+-"
_SHORT = 1000


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
        key, at = read_string(text, _expect(text, at, '"', skip=False))
        at = _expect(text, _skip(text, at), ":")
        _, end = _decoder.raw_decode(text, at)
        spans[key] = (at, end)
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return spans
        at = _expect(text, at, ",")


# A few short answers recur often.
_known_spans = lru_cache(1024)(value_spans)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, character: str, *, skip: bool = True) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character!r} at character {at}")
    return _skip(text, at + 1) if skip else at + 1


@frozen
class Value:
    """One value's tokens. ``text`` begins with the first of them and ends with the value, which
    begins at ``offset``.

    ``top`` has each token's alternatives, or is empty. ``delimited``: the text shows where the
    value ends, as in JSON, and any text of the last token after that is ignored. ``options``: all
    texts that the constraint allows for the value (in JSON, with quotes), or None if they cannot be
    listed. ``ends``: the probability that the value ends where its tokens do; 1 except for a
    number, whose text does not show its end.
    """

    text: str
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    top: tuple[Alternatives, ...] = ()
    delimited: bool = False
    offset: int = 0
    options: frozenset[str] | None = None
    ends: float = 1.0


Options = Mapping[str, frozenset[str]]


def field_values(completion: Completion, options: Options | None = None) -> dict[Name, Value]:
    """The tokens that overlap the value of each top-level field of a JSON answer, in order.

    The completion's tokens must join to its text, and each must have a logprob. ``options``: by
    field.
    """
    text, listed = completion.text, options or {}
    spans = _known_spans(text) if len(text) <= _SHORT else value_spans(text)
    return {name: _in_span(completion, span, listed.get(name)) for name, span in spans.items()}


def _in_span(completion: Completion, span: Span, options: frozenset[str] | None) -> Value:
    assert completion.logprobs is not None
    first = behind = begin = start = 0
    for index, piece in enumerate(completion.tokens):
        if start >= span[1]:
            break
        end = start + len(piece)
        if end > span[0]:
            if not behind:
                first, begin = index, start
            behind = index + 1
        start = end
    return Value(
        completion.text[begin : span[1]],
        completion.tokens[first:behind],
        completion.logprobs[first:behind],
        completion.top[first:behind] if _has_top(completion) else (),
        delimited=True,
        offset=span[0] - begin,
        options=options,
        ends=_ends(completion, behind) if start == span[1] else 1.0,
    )


def _ends(completion: Completion, behind: int) -> float:
    """The probability that a value ends with the token before ``behind``: the total of the token at
    ``behind`` and its listed alternatives that do not continue a number.

    It is 1 after a quote, a word or a bracket. Alternatives that are not listed count against it.
    """
    if behind >= len(completion.tokens) or completion.tokens[behind - 1][-1:] not in _DIGITS:
        return 1.0
    assert completion.logprobs is not None
    own = completion.tokens[behind], completion.logprobs[behind]
    listed = completion.top[behind] if _has_top(completion) else ()
    options = listed if own in listed else (own, *listed)
    ended = (math.exp(p) for piece, p in options if piece[:1] not in OF_A_NUMBER or not piece)
    return min(1.0, math.fsum(ended))


def whole_value(completion: Completion, options: frozenset[str] | None = None) -> Value:
    """A label or a text as one value, including its end token."""
    logprobs = completion.logprobs or ()
    joins = "".join(completion.tokens) == completion.text
    top = completion.top if joins and _has_top(completion) else ()
    return Value(completion.text, completion.tokens, logprobs, top, options=options)


def _has_top(completion: Completion) -> bool:
    return len(completion.top) == len(completion.tokens) == len(completion.logprobs or ())
