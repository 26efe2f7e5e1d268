"""Computes the signals of an answer's values. Pure functions: natural logs → probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runner.answering.answer_values import OF_A_NUMBER, Value
from runner.types import Alternatives


def sequence_probability(logprobs: Iterable[float]) -> float:
    """exp Σ log p, in [0, 1]: the probability of these tokens, given all before them."""
    return min(1.0, math.exp(math.fsum(logprobs)))


def value_signals(value: Value) -> dict[str, float]:
    """The signals of one value, in [0, 1] except ``entropy``, which is in nats.

    ``quartile_probability`` is the lower quartile of the tokens' probabilities (Gupta et al.,
    "Language Model Cascades", 2024). With alternatives, there are also ``margin``, the least p₁ −
    p₂ over the tokens, and ``entropy``, the greatest entropy of a token, with the remaining mass as
    one outcome. For ``probability``, see that function. A number's end counts as one more token in
    the first three (`Value.ends`). Empty without tokens.
    """
    logprobs = value.logprobs
    if not logprobs:
        return {}
    sequence = sequence_probability(logprobs) * value.ends
    found = {
        "probability": probability(value) * value.ends if value.top else sequence,
        "sequence_probability": sequence,
        "least_probability": min(1.0, math.exp(min(logprobs)), value.ends),
        "mean_probability": min(1.0, math.exp(math.fsum(logprobs) / len(logprobs))),
        "quartile_probability": _lower_quartile([math.exp(p) for p in logprobs]),
    }
    if outcomes := [_outcomes(each) for each in value.top if each]:
        found["margin"] = min(p[0] - p[1] for p in outcomes)
        found["entropy"] = max(
            0.0 - math.fsum(x * math.log(x) for x in p if x > 0) for p in outcomes
        )
    return found


def _lower_quartile(probabilities: list[float]) -> float:
    """The quantile at 1/4, linear between neighbours (numpy's default)."""
    ordered, last = sorted(probabilities), len(probabilities) - 1
    low, share = last // 4, last % 4 / 4
    this, following = min(1.0, ordered[low]), min(1.0, ordered[min(low + 1, last)])
    return this + share * (following - this)


def _outcomes(options: Alternatives) -> list[float]:
    """The probabilities of the alternatives, greatest first, and the total of all others."""
    given = [min(1.0, math.exp(logprob)) for _, logprob in options]
    return [*sorted(given, reverse=True), max(0.0, 1.0 - math.fsum(given))]


def probability(value: Value) -> float:
    """The probability of the *value*, in [0, 1], over all ways to spell it in tokens.

    The sum is over the token paths that the alternatives show. A token counts if its text is a
    prefix of the rest of the value's text (or, at the end, covers it); the path continues from
    where the token ends. If that is inside a token of the answer and the options are known, the
    continuation is certain if only this option begins with the text so far; if others do too, it
    counts as 0, since a model trained on `card` and `car_rental` splits off `car` when it means the
    second. If the options are not known, the continuation is estimated from the longer tokens with
    the same beginning. That is exact if the next text depends only on the text before, not on its
    split into tokens, and if every possible token is among the alternatives. The result is at least
    `sequence_probability`, and equal to it without alternatives.

    Case is ignored: labels that differ only in case mean the same. A number's end is not in the
    number's text, so `value_signals` multiplies by `Value.ends`; otherwise 12 would include the 123
    that it might have become.
    """
    if not value.top:
        return sequence_probability(value.logprobs)
    return _Paths(value).total()


class _Paths:
    """Sums over the token paths through one value's text, from its end to its beginning."""

    def __init__(self, value: Value) -> None:
        self._value = value
        self._text = value.text
        starts = [0]
        for piece in value.tokens:
            starts.append(starts[-1] + len(piece))
        self._starts = starts[:-1]
        # Of the tokens of one character, only the last has text; the character begins at the first.
        self._at = {s: index for index, s in reversed(list(enumerate(self._starts)))}
        self._from_token: dict[int, float] = {}
        self._from_within: dict[int, float] = {}

    def total(self) -> float:
        for index in reversed(range(len(self._starts))):
            self._from_token[index] = min(1.0, math.fsum(self._ways(index)))
        return self._from_token[0]

    def _ways(self, index: int, begun: int = 0) -> Iterator[float]:
        """For each possible token at ``index`` that is longer than ``begun`` characters: its
        probability times that of the rest of the value after it."""
        own = self._value.tokens[index], self._value.logprobs[index]
        if begun < len(own[0]) or not begun:
            yield math.exp(own[1]) * self._from_token.get(index + 1, 1.0)
        start = self._starts[index]
        for piece, logprob in self._others(index):
            if len(piece) > begun and self._fits(piece, start):
                yield math.exp(logprob) * self._onward(start + len(piece), index)
            elif not piece and start == len(self._text):
                yield math.exp(logprob)  # another end token

    def _others(self, index: int) -> Iterator[tuple[str, float]]:
        """The alternatives without the token itself."""
        own = self._value.tokens[index], self._value.logprobs[index]
        seen = False
        for piece, logprob in self._value.top[index]:
            if not seen and piece == own[0] and math.isclose(logprob, own[1], abs_tol=1e-6):
                seen = True
            else:
                yield piece, logprob

    def _fits(self, piece: str, start: int) -> bool:
        remains = self._text[start:]
        if not remains or (len(piece) > len(remains) and not self._value.delimited):
            return False
        size = min(len(piece), len(remains))
        if piece[:size].casefold() != remains[:size].casefold():
            return False
        after = piece[size : size + 1]
        return not (after and after in OF_A_NUMBER and remains[-1].isdigit())

    def _onward(self, place: int, index: int) -> float:
        """The probability of the rest of the value from ``place`` in its text, reached from the
        token at ``index``."""
        if place in self._at:
            return self._from_token[self._at[place]]
        if place >= len(self._text):
            return 1.0
        if self._value.options is not None:
            return 1.0 if self._forced(place, self._value.options) else 0.0
        if place not in self._from_within:
            self._from_within[place] = self._within(place)
        return self._from_within[place]

    def _forced(self, place: int, options: frozenset[str]) -> bool:
        """Whether the constraint allows only this value (in any case) after the text so far."""
        opens = self._value.offset
        begun, value = self._text[opens:place].casefold(), self._text[opens:].casefold()
        return bool(begun) and all(
            option == value for option in map(str.casefold, options) if option.startswith(begun)
        )

    def _within(self, place: int) -> float:
        """Like `_onward`, for a place inside a token: of all possible tokens there that begin with
        the text up to the place, the share that continues as the value does."""
        index = max(i for i, start in enumerate(self._starts) if start < place)
        begun = self._text[self._starts[index] : place]
        size = len(begun)
        alike = [math.exp(self._value.logprobs[index])]
        alike += [
            math.exp(logprob)
            for piece, logprob in self._others(index)
            if len(piece) > size and piece[:size].casefold() == begun.casefold()
        ]
        return min(1.0, math.fsum(self._ways(index, size)) / math.fsum(alike))


def usable(values: Mapping[Any, Value]) -> bool:
    """Whether all logprobs are finite numbers of at most 0 (up to rounding)."""
    return all(
        _usable(value.logprobs)
        and all(_usable([logprob for _, logprob in options]) for options in value.top)
        for value in values.values()
    )


def _usable(logprobs: Iterable[float]) -> bool:
    return all(-math.inf < p <= 1e-3 for p in logprobs)
