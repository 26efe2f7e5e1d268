"""Support: records like others that were answered alike, and no company with oneself."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from escalation.certify.neighbour_support import Support
from runner.types import WHOLE

TEXTS = [
    *(f"where is my card, it should have come on day {n}" for n in range(8)),
    *(f"please book a table for {n} people tonight" for n in range(2, 10)),
]
VALUES = [{WHOLE: "card_arrival", "intent": "card_arrival"}] * 8 + [
    {WHOLE: "book_table", "intent": "book_table"}
] * 8
IDS = [f"R-{n}" for n in range(len(TEXTS))]


def support() -> Support:
    return Support.of(IDS, TEXTS, VALUES)


def of(text: str, value: str, record_id: str = "new") -> float:
    return support().of_answer(text, {WHOLE: value}, record_id)[WHOLE]


def test_an_answer_given_to_similar_records_has_more_support_than_one_given_to_others() -> None:
    text = "where is my card, it should have come last week"
    assert of(text, "card_arrival") > 0.6 > 0.3 > of(text, "book_table")


def test_a_record_unlike_any_other_has_little_and_an_unseen_answer_none() -> None:
    assert of("qué opinas de Wittgenstein", "card_arrival") < 0.15
    assert of("where is my card", "lost_card") == 0.0


def test_a_record_does_not_support_itself() -> None:
    odd = "zyzzyva quux plugh"
    with_odd = Support.of(["odd", *IDS], [odd, *TEXTS], [{WHOLE: "card_arrival"}, *VALUES])
    assert with_odd.of_answer(odd, {WHOLE: "card_arrival"}, "another")[WHOLE] > 0.99
    assert with_odd.of_answer(odd, {WHOLE: "card_arrival"}, "odd")[WHOLE] < 0.2


def test_every_field_has_its_own_support_and_an_absent_one_none() -> None:
    found = support().of_answer(TEXTS[0], {WHOLE: "card_arrival", "intent": "book_table"}, "new")
    assert found[WHOLE] > 0.9 > 0.3 > found["intent"]
    assert set(found) == {WHOLE, "intent"}


def test_it_comes_back_from_a_file_the_same_and_holds_no_readable_text() -> None:
    written = json.dumps(support().as_json())
    assert "card, it" not in written
    assert "R-1" not in written
    again = Support.from_json(json.loads(written))
    for text in ("where is my card", "a table for five", "", "nothing like it"):
        values = {WHOLE: "card_arrival", "intent": "book_table"}
        assert again.of_answer(text, values, "x") == support().of_answer(text, values, "x")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["card_arrival", "book_table", "none"]))
def test_it_is_a_share_and_asking_leaves_no_trace(text: str, value: str) -> None:
    one = support()
    first = one.of_answer(text, {WHOLE: value}, "x")[WHOLE]
    one.of_answer("something else entirely", {WHOLE: value}, "y")
    assert 0.0 <= first <= 1.0
    assert one.of_answer(text, {WHOLE: value}, "x")[WHOLE] == first
