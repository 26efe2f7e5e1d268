"""One completion, checked: what is valid, what is said of what is not, and the confidence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.answering.check import Checker
from runner.types import WHOLE, Constraint
from tests.fakes import completion

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["order", "order_status"]},
        "amount": {"type": "number"},
        "who": {"type": "object", "properties": {"age": {"type": "integer"}}},
    },
    "required": ["intent"],
    "additionalProperties": False,
}
JSON = Checker(Constraint(schema=SCHEMA))
LABELS = Checker(Constraint(labels=("order", "order_status", "Ärger", "no.")))
TEXT = Checker(Constraint())
OPEN = Checker(Constraint(schema={"type": "object", "additionalProperties": {"type": "string"}}))
NESTED = '{"intent": "order", "who": {"age": "x"}}'


@pytest.mark.parametrize("checker", [JSON, LABELS, TEXT])
@pytest.mark.parametrize(
    ("finish", "problem"),
    [
        ("refusal", "the model refused"),
        ("length", "the answer was cut off (max_tokens was reached)"),
        ("max_tokens", "the answer was cut off (max_tokens was reached)"),
        ("abort", "the answer was cut off (abort)"),
    ],
)
def test_an_answer_that_did_not_end_by_itself_is_not_valid(
    checker: Checker, finish: str, problem: str
) -> None:
    answer = checker.check(completion('{"intent": "order"}', [-0.1], finish_reason=finish))
    assert (answer.valid, answer.problem, answer.confidence) == (False, problem, None)


@pytest.mark.parametrize(
    ("checker", "text", "problem"),
    [
        (JSON, " \n", "the answer is empty"),
        (LABELS, "", "the answer is empty"),
        (TEXT, "", "the answer is empty"),
        (TEXT, "I'm sorry, but I can't help with that.", "the model refused"),
        (TEXT, "I cannot assist with this request", "the model refused"),
        (LABELS, "refund", "the answer is not one of the labels"),
        (LABELS, "order order_status", "the answer is not one of the labels"),
        (JSON, "order", "the answer is not JSON"),
        (JSON, '{"intent": "order"', "the answer is not JSON"),
        (JSON, '{"intent": "order", "amount": NaN}', "the answer is not JSON"),
        (JSON, '{"intent": "order", "amount": 1e999}', "the answer is not JSON"),
        (JSON, '{"intent": "order", "amount": ' + "9" * 5000 + "}", "the answer is not JSON"),
        (JSON, "[" * 100_000, "the answer is not JSON"),
        (JSON, '["order"]', "the answer violates the schema"),
        (JSON, "{}", "the answer violates the schema"),
        (JSON, '{"intent": "refund"}', "the answer violates the schema at `intent`"),
        (JSON, NESTED, "the answer violates the schema at `who.age`"),
    ],
)
def test_what_is_wrong_is_said(checker: Checker, text: str, problem: str) -> None:
    answer = checker.check(completion(text, [-0.1]))
    assert (answer.valid, answer.problem) == (False, problem)
    assert answer.confidence is None and answer.signals == {}


@pytest.mark.parametrize(
    ("checker", "text", "value"),
    [
        (LABELS, " order\n", "order"),
        (LABELS, '"Order_Status".', "order_status"),
        (LABELS, "no.", "no."),
        (LABELS, "äRGER", "Ärger"),
        (JSON, '\u00a0{"intent": "ORDER"}\n', {"intent": "order"}),
        (JSON, '{"intent": "order", "amount": 1e3}', {"intent": "order", "amount": 1000.0}),
        (TEXT, "  Dear Ada, I can help. ", "Dear Ada, I can help."),
        (TEXT, "cut \ud83d", "cut �"),
    ],
)
def test_what_may_stand(checker: Checker, text: str, value: Any) -> None:
    answer = checker.check(completion(text, [-0.1]))
    assert (answer.valid, answer.problem, answer.value) == (True, None, value)
    assert answer.confidence is not None


def test_a_label_that_two_others_resemble_is_neither() -> None:
    checker = Checker(Constraint(labels=("US", "us", "EU")))
    assert checker.check(completion("us")).value == "us"
    assert not checker.check(completion("Us")).valid


def test_half_a_character_cannot_reach_the_results() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    answer = Checker(Constraint(schema=schema)).check(completion('{"a": "\\uD83D!"}', [-0.1]))
    assert (answer.valid, answer.value) == (True, {"a": "�!"})


def test_half_a_character_in_a_key_cannot_either() -> None:
    for text, valid in (('{"\\ud83d": "a"}', True), ('{"\\ud83d": 1}', False)):
        answer = OPEN.check(completion(text, [-0.1]))
        assert (answer.valid, list(answer.value)) == (valid, ["�"])
        assert valid == ("�" in answer.field_confidence)
        assert valid or answer.problem == "the answer violates the schema at `�`"


def test_json_confidence_is_the_product_over_value_tokens_alone() -> None:
    pieces = ['{"intent": ', '"order', '"', ', "amount": ', "12", "}", ""]
    logprobs = [-50.0, -0.1, -0.2, -50.0, -0.3, 0.0, -50.0]  # behind a number stands its end
    answer = JSON.check(completion("".join(pieces), logprobs, pieces))
    assert answer.valid and answer.confidence is not None
    assert math.isclose(answer.confidence, math.exp(-0.6))
    assert answer.field_confidence == pytest.approx(
        {"intent": math.exp(-0.3), "amount": math.exp(-0.3)}
    )
    assert answer.signals["intent.least_probability"] == pytest.approx(math.exp(-0.2))
    assert not answer.calibrated


def test_the_end_token_tells_a_label_from_the_longer_one_it_begins() -> None:
    # `order` is sure; that it ends there, and is not `order_status`, is not.
    answer = LABELS.check(completion("order", [-0.01, -1.0], ["order", ""]))
    assert answer.confidence == pytest.approx(math.exp(-1.01))


def test_the_length_of_free_text_does_not_count_against_it() -> None:
    words = ["word "] * 200
    answer = TEXT.check(completion("".join(words), [-0.1] * 200, words))
    assert answer.confidence == pytest.approx(math.exp(-0.1))


@pytest.mark.parametrize("logprobs", [None, [], [math.nan], [-math.inf], [0.7]])
def test_without_usable_logprobs_there_is_no_confidence(logprobs: list[float] | None) -> None:
    for checker, text in ((JSON, '{"intent": "order"}'), (LABELS, "order"), (TEXT, "Hello")):
        answer = checker.check(completion(text, logprobs))
        assert answer.valid
        assert (answer.confidence, answer.field_confidence) == (None, {})


def test_tokens_that_do_not_make_up_the_text_give_no_confidence() -> None:
    pieces = ['{"intent": ', '"order_status"', "}"]
    answer = JSON.check(completion('{"intent": "order"}', [-9.0, -0.1, -0.1], pieces))
    assert answer.valid and answer.confidence is None


@pytest.mark.parametrize("rule", [{"$ref": "#/$defs/none"}, {"type": "string", "pattern": "["}])
def test_a_schema_that_fails_on_an_answer_spoils_that_answer(rule: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": rule}}
    answer = Checker(Constraint(schema=schema)).check(completion('{"a": "x"}', [-0.1]))
    assert not answer.valid
    assert answer.problem is not None
    assert "cannot be validated against the schema" in answer.problem


JSONISH = st.text(alphabet='{}[]":, \\ud83Eeorditn_sx0129.-\ud83d\u00a0\n', max_size=40)


@settings(deadline=None)
@given(st.one_of(st.text(), JSONISH, st.builds(lambda t: json.dumps({"intent": t}), st.text())))
def test_no_text_is_too_much_and_every_value_can_be_written(text: str) -> None:
    pieces = list(text) or [""]
    for checker in (JSON, OPEN, LABELS, TEXT):
        answer = checker.check(completion(text, [-0.01] * len(pieces), pieces))
        assert answer.valid == (answer.problem is None)
        whole = [answer.value, answer.problem, answer.field_confidence, answer.signals]
        json.dumps(whole, ensure_ascii=False, allow_nan=False).encode()
        assert answer.confidence is None or 0 <= answer.confidence <= 1


def test_a_schema_on_the_web_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, *_: asked.append(request))
    schema = {"type": "object", "properties": {"a": {"$ref": "http://example.invalid/s.json"}}}
    assert not Checker(Constraint(schema=schema)).check(completion('{"a": "x"}')).valid
    assert asked == []


def test_the_score_sums_the_ways_to_write_a_value() -> None:
    pieces = ['{"intent": "', "order", '"}', ""]
    top = (
        ((pieces[0], 0.0),),
        # `ord` may still become `order_status`: it counts for neither.
        (("order", math.log(0.6)), ("ord", math.log(0.3)), ("refund", math.log(0.1))),
        (('"}', math.log(0.5)), ("_status", math.log(0.3)), ('"', math.log(0.2))),
        (("", 0.0),),
    )
    given = completion("".join(pieces), [0.0, math.log(0.6), math.log(0.5), 0.0], pieces, top=top)
    answer = JSON.check(given)
    assert answer.signals["intent.sequence_probability"] == pytest.approx(0.3)
    assert answer.score == answer.confidence == pytest.approx(0.42)
    assert answer.scores == pytest.approx({"intent": 0.42, WHOLE: 0.42})
    assert JSON.check(replace(given, top=top[:2])).score == pytest.approx(0.3)
