"""A null is written nowhere as "None", nothing is asked about nothing, and a rule's answer keeps
its types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.answering.prompts import Expression, LineRenderer, Renderer, Template
from runner.answering.template_answers import TemplateAnswer
from runner.errors import RecordError
from runner.types import Constraint, Record

NULL = Record(0, "1", {"name": None, "other": "x", "First name": None}, 2)
FIELDS = ("name", "record.name", "record['name']", "record['First name']")


def error_of(text: str, record: Record = NULL, *, expression: bool = False) -> str:
    with pytest.raises(RecordError) as caught:
        if expression:
            Expression(text, "routes[0].when").evaluate(record)
        else:
            Template(text, "prompt.user").render(record)
    assert caught.value.reason == "bad_prompt"
    return str(caught.value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "text",
    [
        "Happy birthday, {{ X }}!", "{{ X | lower }}", "{{ X | upper }}", "{{ X | trim }}",
        "{{ X | title }}", "{{ X | string }}", "{{ X | e }}", "{{ X ~ '!' }}", "{{ '%s' % X }}",
        "{{ '%s %s' | format(other, X) }}", "{{ '{}'.format(X) }}", "{{ [X, other] | join(' ') }}",
        "{{ X | int }}", "{{ X | float }}", "{{ X | replace('N', '') }}", "{{ X | truncate(2) }}",
        "{{ X | indent }}", "{{ X | wordcount }}", "{{ [X] | map('upper') | join }}",
        "{% set y = X %}{{ y }}", "{% for i in [X] %}{{ i }}{% endfor %}", "{{ X.first }}",
        "{{ X[0] }}", "{{ X + 'a' }}", "{{ X | urlencode }}", "{{ X | center(9) }}",
    ],
)  # fmt: skip
def test_a_null_is_written_nowhere(text: str, field: str) -> None:
    said = error_of(text.replace("X", field))
    named = "First name" if "First" in field else "name"
    assert "null" in said and f"`{named}`" in said and "default('')" in said, said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{ name | default('you') }}", "you"), ("{{ name | d('you') }}", "you"),
        ("{{ name | default('you', true) }}", "you"), ("{{ name or 'you' }}", "you"),
        ("{% if name %}{{ name }}{% else %}you{% endif %}", "you"),
        ("{{ 'you' if name is none else name }}", "you"), ("{{ record | tojson }}",
         '{"name": null, "other": "x", "First name": null}'),
        ("{{ name | int(3) }}", "3"), ("{{ name | tojson }}", "null"),
    ],
)  # fmt: skip
def test_a_template_may_see_to_a_null(text: str, shown: str) -> None:
    assert Template(text, "prompt.user").render(NULL) == shown


@pytest.mark.parametrize("text", ["'lawyer' in name", "name > 3", "name.x == 1", "name + 1 == 2"])
def test_an_expression_over_a_null_says_so(text: str) -> None:
    said = error_of(text, expression=True)
    assert "the field `name`, which is null" in said and "`(name | default(''))`" in said


def test_a_constant_null_waits_for_a_record() -> None:
    assert "null" in error_of("{{ none }}")


NOTHING = ["", " ", "\n\n", "\u200b", "\ufeff \u2060", "\u3164", "\u00ad", "\u200e\t", "\ufe0f"]


@given(
    st.lists(st.sampled_from(NOTHING), min_size=2, max_size=2),
    st.sampled_from([None, "Be.", "{{ b }}"]),
)
def test_nothing_is_not_asked_about(parts: list[str], system: str | None) -> None:
    renderer = Renderer(system, "Message: {{ a }} / {{ b | trim }}", Constraint())
    with pytest.raises(RecordError, match="would ask about nothing"):
        renderer.render(Record(0, "1", dict(zip("ab", parts, strict=True)), 2))
    for shown in ("?", "👍", "0", "ж"):
        renderer.render(Record(0, "1", {"a": parts[0], "b": parts[1] + shown}, 2))


def test_a_prompt_without_a_column_is_asked() -> None:
    Renderer(None, "Tell a joke.", Constraint()).render(NULL)
    Renderer(None, "{% if name %}a{% endif %}", Constraint()).render(NULL)


def test_an_empty_message_of_a_batch_file_is_not_asked() -> None:
    fields = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": " "}]}
    with pytest.raises(RecordError, match="would ask about nothing"):
        LineRenderer(Constraint()).render(Record(0, "1", {**fields, "body": {}}, 2))


# -- a rule's answer ---------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "b"]},
        "score": {"type": "integer"},
        "share": {"type": "number"},
        "ok": {"type": "boolean"},
        "none": {"type": ["null", "string"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "who": {"type": "object", "properties": {"age": {"type": "integer"}}},
    },
    "additionalProperties": False,
}
HELD = Constraint(schema=SCHEMA)
GIVEN = Record(
    0, "1", {"n": 5, "text": "5", "yes": True, "nil": None, "list": ["x"], "word": "b"}, 2
)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"kind": "a", "score": 5, "ok": True, "none": None}, None),
        ({"score": "{{ n }}"}, {"score": 5}),
        ({"score": "{{ text | int }}"}, {"score": 5}),
        ({"score": "{{- -n -}}"}, {"score": -5}),
        ({"share": "{{ n / 2 }}"}, {"share": 2.5}),
        ({"ok": "{{ yes }}"}, {"ok": True}),
        ({"none": "{{ nil }}"}, {"none": None}),
        ({"none": "{{ n }}"}, {"none": "5"}),
        ({"none": "{{ n }}{{ n }}"}, {"none": "55"}),
        ({"tags": "{{ list }}"}, {"tags": ["x"]}),
        ({"tags": ["{{ word }}", "y"]}, {"tags": ["b", "y"]}),
        ({"who": {"age": "{{ n }}"}}, {"who": {"age": 5}}),
        ('{"score": {{ n }}}', {"score": 5}),
        ("Dear {{ word }}!", "Dear b!"),
    ],
)
def test_an_answer_keeps_its_types(answer: Any, value: Any) -> None:
    given = TemplateAnswer(answer, "routes[0].answer", HELD).render(GIVEN)
    wanted = answer if value is None else value
    assert given == wanted
    assert repr(given) == repr(wanted), "True is no 1"


@pytest.mark.parametrize(
    ("answer", "constant"),
    [
        ({"kind": "c"}, True), ({"score": "5"}, True), ({"ok": "true"}, True), ({"odd": 1}, True),
        ({"score": 1.5}, True), ({"kind": "{{ text }}"}, False),
        ({"score": "{{ text }}"}, False), ({"score": "{{ n }} "  "x"}, False),
        ({"who": {"age": "{{ word }}"}}, False),
    ],
)  # fmt: skip
def test_an_answer_off_the_schema_is_told(answer: Any, constant: bool) -> None:
    made = TemplateAnswer(answer, "routes[0].answer", HELD)
    assert (made.mistake() is not None) is constant
    with pytest.raises(RecordError, match=r"routes\[0\]\.answer gives an answer that"):
        made.render(GIVEN)


def test_an_answer_off_the_labels_is_told() -> None:
    held = Constraint(labels=("a", "b"))
    assert TemplateAnswer("{{ word }}", "w", held).render(GIVEN) == "b"
    with pytest.raises(RecordError, match="not one of the job's labels"):
        TemplateAnswer("{{ text }}", "w", held).render(GIVEN)
    assert "'c'" in str(TemplateAnswer("c", "w", held).mistake())
    assert TemplateAnswer("a", "w", held).mistake() is None
    assert TemplateAnswer("anything", "w", Constraint()).mistake() is None
