"""Templates: what they give, what they refuse, and what a failure in one of them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.answering.prompts import Expression, Renderer, Template, template_mistakes
from runner.answering.template_answers import TemplateAnswer
from runner.errors import RecordError
from runner.types import Constraint, Record

COLUMNS = ["id", "message", "first_name"]


def record(**fields: Any) -> Record:
    return Record(0, "1", fields, 2)


def failure(work: Callable[[], object]) -> str:
    with pytest.raises(RecordError) as caught:
        work()
    assert caught.value.reason == "bad_prompt"
    return str(caught.value)


def test_a_prompt_is_its_messages_in_order() -> None:
    constraint = Constraint(labels=("a", "b"))
    prompt = Renderer("Be brief.", "{{ message }}\n", constraint).render(record(message="<a> & é"))
    assert [(m.role, m.content, m.cacheable) for m in prompt.messages] == [
        ("system", "Be brief.", True),
        ("user", "<a> & é\n", False),
    ]
    assert prompt.constraint is constraint
    assert [m.role for m in Renderer(None, "x", constraint).render(record()).messages] == ["user"]


def test_a_system_prompt_of_the_record_is_not_cacheable() -> None:
    renderer = Renderer("You write to {{ first_name }}.", "x", Constraint())
    assert not renderer.render(record(first_name="Ada")).messages[0].cacheable


def test_any_column_can_be_named() -> None:
    template = Template("{{ record['First name'] }} {{ record.plan }}", "prompt.user")
    assert template.render(record(**{"First name": "Ada", "plan": "team"})) == "Ada team"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ mesage }}", "names the field `mesage`, which this record lacks; did you mean"),
        ("{{ price }}", "names the field `price`, which this record lacks (it has: message)"),
        ("{{ record['First'] }}", "names the field `First`, which this record lacks"),
        ("{{ message + 1 }}", "prompt.user failed: can only concatenate str"),
        ("{{ 1 / 0 }}", "prompt.user failed: division by zero"),
        ("{{ message | float / 0 }}", "prompt.user failed"),
        (
            "{% for i in range(1000000000) %}x{% endfor %}",
            "prompt.user was stopped: it makes a range of more than 100,000",
        ),
        (
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "prompt.user was stopped: it recurses too deeply",
        ),
        ("{{ ''.__class__.__mro__ }}", "prompt.user failed: access to attribute '__class__'"),
        ("{{ message.format.__globals__ }}", "prompt.user failed: access to attribute"),
        ("{{ ''['__class__'] }}", "prompt.user failed: access to attribute '__class__'"),
        ("{{ ''|attr('__class__') }}", "prompt.user failed: access to attribute '__class__'"),
        ("{{ '{0.__class__}'.format(1) }}", "prompt.user failed: access to attribute '__class__'"),
        ("{{ record.clear() }}", "prompt.user failed"),
    ],
)
def test_a_failure_is_the_records_alone_and_says_where(text: str, said: str) -> None:
    message = failure(lambda: Template(text, "prompt.user").render(record(message="hi")))
    assert message.startswith("prompt.user")
    assert said in message


def test_a_records_own_text_is_never_a_template() -> None:
    assert Template("{{ message }}", "prompt.user").render(record(message="{{ 7 * 7 }}")) == (
        "{{ 7 * 7 }}"
    )


def test_expressions() -> None:
    legal = Expression("'lawyer' in message and amount | float > 10", "routes[0].when")
    assert legal.evaluate(record(message="my lawyer", amount="11"))
    assert not legal.evaluate(record(message="my lawyer", amount="9.5"))
    assert not Expression("vip is defined and vip", "w").evaluate(record())


def test_an_expression_that_fails_says_where_and_how_to_fix_it() -> None:
    said = failure(lambda: Expression("amount > 10", "routes[2].when").evaluate(record(amount="9")))
    assert said.startswith("routes[2].when failed: '>' not supported")
    assert "values from CSV are text: write `(name | float)`" in said
    # A field alone is looked at by nobody but the rule.
    assert "routes[2].when names the field `vip`" in failure(
        lambda: Expression("vip", "routes[2].when").evaluate(record(amount="9"))
    )


@pytest.mark.parametrize(
    ("text", "expression", "said"),
    [
        ("{{ message", False, "`w` is not a Jinja2 template: unexpected end of template"),
        ("{% if message %}", False, "`w` is not a Jinja2 template: Unexpected end of template"),
        ("{{ message | shout }}", False, "not a Jinja2 template: No filter named 'shout'"),
        (
            "{{ mesage }}",
            False,
            "the field `mesage`, which the records lack; did you mean `message`?",
        ),
        (
            "{{ plan }}",
            False,
            "`plan`, which the records lack (they have: id, message, first_name)",
        ),
        ("{{ ID }}", False, "which the records lack; did you mean `id`?"),
        ("kind == ", True, "`w` is not a Jinja2 expression"),
        ("message }} {{ id", True, "`w` is not a Jinja2 expression"),
        ("message is shouted", True, "`w` is not a Jinja2 expression: No test named 'shouted'"),
        ("mesage == 'a'", True, "names the field `mesage`"),
    ],
)
def test_mistakes_that_show_before_any_record(text: str, expression: bool, said: str) -> None:
    (mistake,) = template_mistakes(text, "w", COLUMNS, expression=expression)
    assert said in mistake


@pytest.mark.parametrize(
    ("text", "expression", "said"),
    [
        ("{{ First name }}", False, "; the column `First name` is written `record['First name']`"),
        ("First name == ''", True, "; the column `First name` is written `record['First name']`"),
        ("{{ e-mail }}", False, "`w`: the column `e-mail` is written `record['e-mail']`"),
        ("{{ FirstName }}", False, "did you mean `record['First name']`?"),
        ("e-mail, {{ x }}", False, "names the field `x`, which the records lack"),
    ],
)
def test_a_column_that_no_template_can_name_as_it_is(
    text: str, expression: bool, said: str
) -> None:
    columns = [*COLUMNS, "First name", "e-mail"]
    (mistake,) = template_mistakes(text, "w", columns, expression=expression)
    assert said in mistake


def test_a_name_with_a_space_where_nobody_knows_the_columns() -> None:
    (mistake,) = template_mistakes("{{ Customer message }}", "w", None)
    assert "; a column whose name has a space is written `record['Customer message']`" in mistake
    (mistake,) = template_mistakes("{{ message", "w", None)
    assert "space" not in mistake


@pytest.mark.parametrize("text", ["{{ message }} {{ record.x }} {{ range(3) }}", "plain"])
def test_what_is_no_mistake(text: str) -> None:
    assert template_mistakes(text, "w", COLUMNS) == []


def test_fields_that_may_be_missing_are_no_mistake() -> None:
    assert template_mistakes("{{ plan | default('none') }}", "w", COLUMNS) == []
    assert template_mistakes("plan is defined and plan", "w", COLUMNS, expression=True) == []
    assert template_mistakes("{{ anything }}", "w", None) == [], "JSONL records each differ"


def test_template_answers() -> None:
    ada = record(first_name="Ada")
    assert TemplateAnswer("Dear {{ first_name }}", "a").render(ada) == "Dear Ada"
    answer = TemplateAnswer({"to": "{{ first_name }}", "topic": "birthday"}, "a")
    assert answer.render(ada) == {"to": "Ada", "topic": "birthday"}
    said = failure(lambda: answer.render(record(name="Ada")))
    assert said.startswith("a names the field `first_name`")
