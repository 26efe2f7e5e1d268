"""From tokens to probabilities: only an answer's values count, each for its own field."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.signals import field_logprobs, probability, token_signals, usable, value_spans
from tests.fakes import completion

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=5)
SPACE = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """An object, and one of the ways to write it as JSON."""
    value = draw(OBJECTS)
    escaped, gap = draw(st.booleans()), draw(SPACE)

    def dumps(part: object) -> str:
        separators = (gap + ",", ":" + gap)
        return json.dumps(part, ensure_ascii=escaped, separators=separators)

    parts = [f"{draw(SPACE)}{dumps(k)}{gap}:{draw(SPACE)}{dumps(v)}" for k, v in value.items()]
    return f"{draw(SPACE)}{{{','.join(parts)}{draw(SPACE)}}}{draw(SPACE)}", value


@settings(deadline=None)
@given(written())
def test_spans_hold_exactly_the_values(case: tuple[str, dict[str, Any]]) -> None:
    text, value = case
    spans = value_spans(text)
    assert {name: json.loads(text[a:b]) for name, (a, b) in spans.items()} == json.loads(text)
    assert list(spans) == list(value)
    assert all(text[a:b].strip() == text[a:b] for a, b in spans.values())


@pytest.mark.parametrize("text", ["", "[]", '"a"', '{"a"}', '{"a" 1}', '{"a": 1', "{a: 1}"])
def test_what_is_no_object_has_no_spans(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        value_spans(text)


@settings(deadline=None)
@given(written(), st.data())
def test_splitting_tokens_changes_no_fields_probability(
    case: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    # Each value's tokens share a fixed sum; what stands between values carries noise.
    text, value = case
    spans = sorted(value_spans(text).values())
    edges = sorted({0, len(text), *(edge for span in spans for edge in span)})
    cuts = data.draw(st.sets(st.integers(0, len(text))))
    borders = sorted({*edges, *cuts})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    logprobs = [
        next((-(b - a) / (e - s) for s, e in spans if s <= a < e), -99.0)
        for a, b in pairwise(borders)
    ]
    found = field_logprobs(completion(text, logprobs, pieces))
    assert list(found) == list(value)
    assert all(math.isclose(probability(each), math.exp(-1)) for each in found.values())


def test_a_token_over_a_border_counts_for_the_value_it_touches() -> None:
    pieces = ['{"', "a", '": "', "x", '", "', "b", '": ', "1", "}", ""]
    logprobs = [-float(2**n) for n in range(len(pieces))]
    found = field_logprobs(completion("".join(pieces), logprobs, pieces))
    assert found == {"a": (-4.0, -8.0, -16.0), "b": (-128.0,)}


@settings(deadline=None)
@given(st.lists(st.floats(-700, 0), min_size=1, max_size=20))
def test_signals_are_probabilities_in_their_order(logprobs: list[float]) -> None:
    signals = token_signals(tuple(logprobs))
    sequence, least, mean = (
        signals[f"{name}_probability"] for name in ("sequence", "least", "mean")
    )
    assert 0 <= sequence <= least * (1 + 1e-9)
    assert least <= mean * (1 + 1e-9) <= 1 + 1e-9


def test_no_tokens_no_signals() -> None:
    assert token_signals(()) == {}


def test_rounding_above_one_is_one() -> None:
    assert probability((1e-7,)) == 1.0
    assert token_signals((1e-7,))["mean_probability"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf, 0.5])
def test_logprobs_that_are_none_are_not_usable(bad: float) -> None:
    assert usable({"a": (-1.0, 0.0), "b": (-0.1, 1e-4)})
    assert not usable({"a": (-1.0,), "b": (-0.1, bad)})
