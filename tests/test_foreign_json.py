"""JSON of somebody else's: whatever comes out can be walked, encoded and stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.formats.foreign_json import MOST_DEPTH, Unreadable, clipped, count, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(VALUES)
def test_what_is_plain_json_comes_out_as_it_is(value: object) -> None:
    text = json.dumps(value)
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        with pytest.raises(Unreadable):
            parse(text)
    else:
        assert parse(text) == parse(text.encode()) == json.loads(text)


@given(st.binary())
def test_any_bytes_are_a_value_or_unreadable(content: bytes) -> None:
    try:
        value = parse(content)
    except Unreadable as error:
        assert str(error).isprintable()
    else:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


@pytest.mark.parametrize("open_, close", ["[]", ('{"a":', "}")])
@pytest.mark.parametrize("deep", [MOST_DEPTH + 1, 500, 5_000, 1_000_000])
def test_deep_nesting_is_unreadable(open_: str, close: str, deep: int) -> None:
    inner = "1" if open_ != "[" else ""
    with pytest.raises(Unreadable, match="deep"):
        parse(open_ * deep + inner + close * deep)
    with pytest.raises(Unreadable):
        parse(open_ * deep)


def test_brackets_in_a_string_are_text() -> None:
    assert parse(json.dumps({"text": "[" * 1000})) == {"text": "[" * 1000}
    assert parse(json.dumps(['\\"' + "{" * 1000] * 3)) == ['\\"' + "{" * 1000] * 3


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "[-1e999]", "9" * 5000, "{", "", '{"a":1,}']
)
def test_what_is_no_strict_json_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        parse(text)


def test_half_a_surrogate_is_replaced_wherever_it_stands() -> None:
    assert parse('{"a\\ud800": ["\\udc00x", "\\ud83d\\ude00"]}') == {"a\ufffd": ["\ufffdx", "😀"]}


def test_a_bom_is_no_part_of_it() -> None:
    assert parse(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("value", [-1, 10**9 + 1, 10**13, 1.0, "1", [1], {}, True, None])
def test_what_is_no_count(value: object) -> None:
    with pytest.raises(Unreadable, match="not a count"):
        count(value)


@pytest.mark.slow
@given(st.one_of(VALUES, st.just(10**5000)))
def test_a_clipped_value_is_one_short_printable_line(value: object) -> None:
    assert len(clipped(value)) <= 81 and clipped(value).isprintable()


def test_what_a_reply_says_twice_and_differently_is_no_number() -> None:
    said = parse(
        '{"n": 9, "n": 0, "same": null, "same": 1, "in": {"a": 1, "a": 2}}', odd_numbers=True
    )
    assert said == {"n": "(said twice)", "same": 1, "in": {"a": "(said twice)"}}
    with pytest.raises(Unreadable):
        count(said["n"])
