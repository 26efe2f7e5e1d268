"""From tokens to probabilities: only an answer's values count, each for its own field."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.answering.answer_values import Value, field_values, value_spans, whole_value
from runner.answering.check import Checker
from runner.answering.value_probability import sequence_probability, usable, value_signals
from runner.types import Alternatives, Completion, Constraint
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
    # Each value's tokens share a fixed sum; what stands between values carries noise, but behind a
    # number, whose end it tells.
    text, value = case
    spans = sorted(value_spans(text).values())
    edges = sorted({0, len(text), *(edge for span in spans for edge in span)})
    cuts = data.draw(st.sets(st.integers(0, len(text))))
    borders = sorted({*edges, *cuts})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    ends = {e for s, e in spans if text[e - 1].isdigit()}
    logprobs = [
        next((-(b - a) / (e - s) for s, e in spans if s <= a < e), 0.0 if a in ends else -99.0)
        for a, b in pairwise(borders)
    ]
    found = field_values(completion(text, logprobs, pieces))
    assert list(found) == list(value)
    for each in found.values():
        assert math.isclose(sequence_probability(each.logprobs), math.exp(-1))
        assert value_signals(each)["probability"] == sequence_probability(each.logprobs)


def test_a_token_over_a_border_counts_for_the_value_it_touches() -> None:
    pieces = ['{"', "a", '": "', "x", '", "', "b", '": ', "1", "}", ""]
    logprobs = [-float(2**n) for n in range(len(pieces))]
    found = field_values(completion("".join(pieces), logprobs, pieces))
    assert {name: each.logprobs for name, each in found.items()} == {
        "a": (-4.0, -8.0, -16.0),
        "b": (-128.0,),
    }
    assert [each.text for each in found.values()] == ['": "x"', "1"]


def plain(*logprobs: float) -> Value:
    return Value("x" * len(logprobs), ("x",) * len(logprobs), logprobs)


@settings(deadline=None)
@given(st.lists(st.floats(-700, 0), min_size=1, max_size=20))
def test_signals_are_probabilities_in_their_order(logprobs: list[float]) -> None:
    signals = value_signals(plain(*logprobs))
    sequence, least, quartile, mean = (
        signals[f"{name}_probability"] for name in ("sequence", "least", "quartile", "mean")
    )
    assert 0 <= sequence <= least * (1 + 1e-9)
    assert least <= mean * (1 + 1e-9) <= 1 + 1e-9
    assert least <= quartile * (1 + 1e-9) <= max(map(math.exp, logprobs)) * (1 + 1e-9) ** 2
    assert signals["probability"] == sequence
    assert not {"margin", "entropy"} & signals.keys()


def test_the_lower_quartile_lies_between_its_neighbours() -> None:
    value = plain(*map(math.log, (0.9, 0.5, 0.7, 0.2)))
    assert value_signals(value)["quartile_probability"] == pytest.approx(0.425)


def test_no_tokens_no_signals() -> None:
    assert value_signals(plain()) == {}


def test_rounding_above_one_is_one() -> None:
    signals = value_signals(plain(1e-7))
    assert {signals[name] for name in signals} == {1.0}


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf, 0.5])
def test_logprobs_that_are_none_are_not_usable(bad: float) -> None:
    assert usable({"a": plain(-1.0, 0.0), "b": plain(-0.1, 1e-4)})
    assert not usable({"a": plain(-1.0), "b": plain(-0.1, bad)})
    assert not usable({"a": Value("x", ("x",), (-1.0,), ((("x", -1.0), ("y", bad)),))})


# --- alternatives ---


def top(*each: dict[str, float]) -> tuple[Alternatives, ...]:
    """From probabilities, best first."""
    ranked = (sorted(options.items(), key=lambda pair: -pair[1]) for options in each)
    return tuple(tuple((text, math.log(p)) for text, p in options if p) for options in ranked)


def answered(tokens: list[str], *each: dict[str, float]) -> Completion:
    """An answer of these tokens, each taken out of its distribution."""
    logprobs = [math.log(p[token]) for token, p in zip(tokens, each, strict=True)]
    return completion("".join(tokens), logprobs, tokens, top=top(*each))


def test_margin_and_entropy_are_the_worst_tokens() -> None:
    each = {"a": 0.9, "b": 0.1}, {"c": 0.5, "d": 0.25}, {"": 1.0}
    signals = value_signals(whole_value(answered(["a", "c", ""], *each)))
    assert signals["margin"] == pytest.approx(0.25)
    assert signals["entropy"] == pytest.approx(1.5 * math.log(2))


def test_with_one_alternative_the_rest_is_the_other() -> None:
    signals = value_signals(whole_value(answered(["a"], {"a": 0.75})))
    assert signals["margin"] == pytest.approx(0.5)


def test_a_label_that_begins_another_is_told_by_its_end() -> None:
    # `card` 0.3, `card_lost` 0.5, `cash` 0.2.
    first = {"card": 0.6, "ca": 0.25, "card_lost": 0.1, "cash": 0.05}
    then = {"": 0.375, "_lost": 0.625}
    short = whole_value(answered(["card", ""], first, then))
    # 0.25 begin with `ca`; of the 0.75 that begin so with a longer token, 0.6 go on as `card`.
    assert value_signals(short)["probability"] == pytest.approx((0.6 + 0.25 * 0.8) * 0.375)
    long = answered(["card", "_lost", ""], first, then, {"": 1.0})
    assert value_signals(whole_value(long))["probability"] == pytest.approx(
        0.6 * 0.625 + 0.1 + 0.25 * (0.6 * 0.625 + 0.1) / 0.75
    )
    # Without an end token too: `card_lost` is another label than `card`.
    unended = whole_value(answered(["card"], first))
    assert value_signals(unended)["probability"] == pytest.approx(0.6 + 0.25 * 0.8)


def test_a_closing_quote_tells_as_an_end_token_does() -> None:
    each = (
        {'{"a": "': 1.0},
        {"card": 0.7, 'card"': 0.1, "card_lost": 0.2},
        {'"': 0.4, '"}': 0.1, "_lost": 0.5},
        {"}": 1.0},
    )
    found = field_values(answered(['{"a": "', "card", '"', "}"], *each))
    assert value_signals(found["a"])["probability"] == pytest.approx(0.7 * 0.5 + 0.1)


def test_where_the_options_are_known_only_a_forced_way_on_counts() -> None:
    first = {"card": 0.6, "ca": 0.2, "c": 0.1, "cash": 0.1}
    made = answered(["card", ""], first, {"": 1.0})
    shared = whole_value(made, frozenset({"card", "cash"}))
    assert value_signals(shared)["probability"] == pytest.approx(0.6)
    alone = whole_value(made, frozenset({"card", "Card", "refund"}))
    assert value_signals(alone)["probability"] == pytest.approx(0.9)
    each = {'{"a": "': 1.0}, first, {'"': 1.0}, {"}": 1.0}
    tokens = ['{"a": "', "card", '"', "}"]
    for options, expected in ((('"card"', '"cash"'), 0.6), (('"card"', '"refund"'), 0.9)):
        found = field_values(answered(tokens, *each), {"a": frozenset(options)})
        assert value_signals(found["a"])["probability"] == pytest.approx(expected)


def test_a_number_that_goes_on_is_another() -> None:
    each = {'{"a": ': 1.0}, {"12": 0.5, "123": 0.3, "12}": 0.1, "12, ": 0.1}, {"}": 1.0}
    found = field_values(answered(['{"a": ', "12", "}"], *each))
    assert value_signals(found["a"])["probability"] == pytest.approx(0.7)


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
GOES_ON = st.sampled_from(list("0123456789.eE+-")).flatmap(
    lambda first: st.text("0123456789", max_size=2).map(lambda rest: first + rest)
)


@given(NUMBERS, st.floats(0.01, 0.98), st.lists(GOES_ON, min_size=1, max_size=4, unique=True),
       st.sampled_from(["}", ', "b": 1}', " ", "\n", ""]), st.booleans())  # fmt: skip
def test_a_number_is_as_sure_as_its_end(
    number: float, share: float, longer: list[str], behind: str, listed: bool
) -> None:
    text = json.dumps(number)
    then = {behind or "}": share} | {piece: (1 - share) / len(longer) for piece in longer}
    tokens = ['{"a": ', text, behind or "}"]
    tail = {" ": "}", "\n": "}"}.get(behind, "")
    each = [{tokens[0]: 1.0}, {text: 0.9}, then, *([{tail: 1.0}] if tail else [])]
    made = answered([*tokens, *([tail] if tail else [])], *each)
    if not listed:
        made = replace(made, top=())
    signals = value_signals(field_values(made)["a"])
    for name in ("probability", "sequence_probability"):
        assert signals[name] == pytest.approx(0.9 * share)
    assert signals["least_probability"] == pytest.approx(min(0.9, share))


@pytest.mark.parametrize("value", ["x1", True, None, [1], {"b": 1}, []])
def test_what_says_itself_where_it_ends_is_as_sure_as_its_tokens(value: object) -> None:
    text = json.dumps(value)
    each = {'{"a": ': 1.0}, {text: 0.9}, {"}": 0.5, "1": 0.5}
    found = field_values(answered(['{"a": ', text, "}"], *each))
    assert value_signals(found["a"])["probability"] == pytest.approx(0.9)


def test_case_does_not_change_the_meaning() -> None:
    each = {"Yes": 0.5, "yes": 0.3, "no": 0.2}, {"": 1.0}
    assert value_signals(whole_value(answered(["Yes", ""], *each)))["probability"] == (
        pytest.approx(0.8)
    )


def test_the_token_itself_counts_where_it_is_not_among_the_best() -> None:
    value = Value("no", ("no", ""), (math.log(0.1), 0.0), top({"yes": 0.9}, {"": 1.0}))
    assert value_signals(value)["probability"] == pytest.approx(0.1)


def test_a_character_of_several_tokens() -> None:
    each = {"": 0.4, "日": 0.5, "月": 0.1}, {"日": 1.0}, {"": 1.0}
    value = Value("日", ("", "日", ""), (math.log(0.4), 0.0, 0.0), top(*each))
    assert value_signals(value)["probability"] == pytest.approx(0.9)


# --- a language over labels, split into tokens in every possible way ---

LANGUAGES = st.dictionaries(
    st.text("ab", min_size=1, max_size=6), st.floats(0.05, 1.0), min_size=1, max_size=6
)
SIZES = st.lists(st.floats(0.1, 1.0), min_size=6, max_size=6)


class Synthetic:
    """Label probabilities, and a tokenizer that splits by sizes drawn without regard to the text:
    each size up to the language's longest has its probability; what is too long ends the label."""

    def __init__(self, language: dict[str, float], sizes: list[float]) -> None:
        whole = math.fsum(language.values())
        self.language = {label: p / whole for label, p in language.items()}
        self.sizes = [p / math.fsum(sizes) for p in sizes]

    def next(self, before: str) -> dict[str, float]:
        """The distribution over tokens after a text; depends on that text alone."""
        going_on = {label: p for label, p in self.language.items() if label.startswith(before)}
        whole = math.fsum(going_on.values())
        found: dict[str, float] = {}
        for label, p in going_on.items():
            rest = label[len(before) :] + "."
            for size, share in enumerate(self.sizes, 1):
                token = rest[:size]
                found[token] = found.get(token, 0.0) + share * p / whole
        return found

    def answer(self, tokens: list[str]) -> Completion:
        starts = ["".join(tokens[:i]) for i in range(len(tokens))]
        return answered(tokens, *(self.next(start) for start in starts))


@settings(deadline=None)
@given(LANGUAGES, SIZES, st.data())
def test_a_values_probability_does_not_depend_on_its_split(
    language: dict[str, float], sizes: list[float], data: st.DataObject
) -> None:
    synthetic = Synthetic(language, sizes)
    label = data.draw(st.sampled_from(sorted(synthetic.language)))
    text = label + "."
    cuts = data.draw(st.sets(st.integers(1, len(text) - 1))) if len(text) > 1 else set()
    borders = sorted({0, *cuts, len(text)})
    tokens = [text[a:b] for a, b in pairwise(borders)]
    if max(map(len, tokens)) > len(synthetic.sizes):
        return
    signals = value_signals(whole_value(synthetic.answer(tokens)))
    assert signals["probability"] == pytest.approx(synthetic.language[label])
    assert signals["probability"] >= signals["sequence_probability"] * (1 - 1e-9)


@settings(deadline=None)
@given(LANGUAGES, SIZES, st.lists(st.text("!?", min_size=1, max_size=3), max_size=4))
def test_forced_tokens_change_nothing(
    language: dict[str, float], sizes: list[float], forced: list[str]
) -> None:
    bare = Synthetic(language, sizes).answer([*max(language), "."])
    tokens = (*forced, *bare.tokens, "")
    logprobs = (*[0.0] * len(forced), *(bare.logprobs or ()), 0.0)
    alternatives = (*[((text, 0.0),) for text in forced], *bare.top, (("", 0.0),))
    among = completion("".join(tokens), logprobs, tokens, top=alternatives)
    before, after = (value_signals(whole_value(c)) for c in (bare, among))
    for name in ("probability", "sequence_probability", "least_probability", "margin", "entropy"):
        assert after[name] == pytest.approx(before[name])


@settings(deadline=None)
@given(LANGUAGES, SIZES, st.randoms())
def test_the_order_of_the_labels_does_not_matter(
    language: dict[str, float], sizes: list[float], random: Any
) -> None:
    shuffled = list(language)
    random.shuffle(shuffled)
    found = []
    for labels in (list(language), shuffled):
        synthetic = Synthetic({label: language[label] for label in labels}, sizes)
        best = max(sorted(labels), key=lambda label: language[label])
        made = synthetic.answer([*best, "."])
        checker = Checker(Constraint(labels=tuple(label + "." for label in labels)))
        found.append(checker.check(made))
    assert found[0].value == found[1].value
    assert found[0].signals == pytest.approx(found[1].signals)
    assert found[0].scores == pytest.approx(found[1].scores)
    assert found[0].score == pytest.approx(found[0].signals["probability"])
