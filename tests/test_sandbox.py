"""Templates that compute for ever or make too much are stopped, quickly and with a sentence."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.answering.prompts import Expression, Template, template_mistakes
from runner.errors import RecordError
from runner.templates import allowance
from runner.types import Record

RECORD = Record(0, "a", {"message": "hi {{ 7 * 7 }} {% for x in y %}", "parts": [1, 2, 3]}, 1)
DOUBLES = (
    ("'ab'", "ns.x ~ ns.x"), ("'ab'", "ns.x + ns.x"), ("'ab'", "ns.x * 2"), ("[1]", "[ns.x, ns.x]"),
    ("[1]", "ns.x + ns.x"), ("(1,)", "(ns.x, ns.x)"), ("{}", "{'a': ns.x, 'b': ns.x}"),
    ("{}", "dict(a=ns.x, b=ns.x)"), ("3", "ns.x * ns.x"), ("'ab'", "ns.x.replace('a', 'aa')"),
    ("'ab'", "'%s%s' % (ns.x, ns.x)"), ("'ab'", "'{0}{0}'.format(ns.x)"),
    ("'ab'", "ns.x|replace('a', 'aa')"), ("[1]", "[ns.x, ns.x]|list"), ("'<'", "(ns.x|e) ~ ns.x"),
)  # fmt: skip
ONE_STEP = (
    "10**(10**7)", "2**(2**40)", "(10**4000) * (10**4000)", "-(10**(10**7))", "10**(10**7) // 3",
    "'x' * 10**10", "10**10 * 'x'", "[0] * 10**9", "(0,) * 10**9", "('x'|e) * 10**10",
    "'%1000000000d' % 1", "'%*d' % (10**9, 1)", "'%.1000000000f' % 1", "'%-1000000000s' % 'a'",
    "'%(a)1000000000s' % {'a': 1}", "'{:1000000000}'.format(1)", "'{:{w}}'.format(1, w=10**9)",
    "'{x:1000000000}'.format_map({'x': 1})", "'%1000000000s'|format('a')",
    "'a'.center(10**10)", "'a'.ljust(10**10)", "'a'.rjust(10**10)", "'a'.zfill(10**10)",
    "'\t'.expandtabs(10**10)", "('a'|attr('ljust'))(10**10)", "'a'['ljust'](10**10)",
    "('a' * 10**6).replace('a', 'b' * 10**6)", "('a' * 10**6)|replace('a', 'b' * 10**6)",
    "('x' * 10**6).join(['a'] * 10**5)", "(['a'] * 10**5)|join('x' * 10**6)",
    "range(99999)|map('string')|join('x' * 10**6)", "('a' * 10**6).translate({97: 'b' * 10**6})",
    "('%s' * 10**5)|format('x' * 10**6)", "('{0}' * 10**5).format('x' * 10**6)",
    "(1).to_bytes(10**10, 'big')", "('x' * 10**6).encode('punycode')", "1.5|round(10**9, 'ceil')",
    "'a'|center(10**10)", "'a'|indent(10**10, true)", "('a\n' * 10**5)|indent(10**6)",
    "('a ' * 10**6)|wordwrap(1, wrapstring='x' * 10**5)", "('a-' * 3000000)|wordwrap",
    "[1]|batch(10**10, 1)|list", "[1]|slice(10**10)|list", "([[1]] * 99999)|sum(start=[])",
    "([1] * 99999)|tojson(10**6)", "([1] * 400000)|pprint", "('<!---->' * 10**6)|striptags",
    "('<a>' * 10**6)|striptags", "('http://a.bc ' * 10**5)|urlize(target='x' * 10**5)",
    "('a@' * 10**6)|urlize", "('(' * 10**6)|urlize", "range(10**9)", "range(10**9)|list",
    "range(99999)|map('center', 10**6)|list", "range(99999)|map('center', 10**6)|join",
    "[[[0] * 1000] * 1000] * 1000", "{}.fromkeys(range(99999), 'a' * 10**6)|string",
)  # fmt: skip
WHOLE = (
    "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% call m() %}{% endcall %}{% endfor %}{% endfor %}",
    "{% set big = 'a' * 9000000 %}{% for i in range(99999) %}{% if big[1:] == 1 %}{% endif %}"
    "{% endfor %}",
    "{% set c = cycler(1, 2) %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{{ c.next() }}{% endfor %}{% endfor %}",
    "{% filter center(10**10) %}a{% endfilter %}",
    "{% autoescape true %}{{ ('<'|safe) * 10**10 }}{% endautoescape %}",
    "{% set f = 'a'.ljust %}{{ f(10**10) }}",
    "{% set a %}{{ 'x' * 10**7 }}{% endset %}{{ a ~ a ~ a ~ a ~ a }}",
    "{% block a %}{% for i in range(99999) %}{{ 'x' * 10**6 }}{% endfor %}{% endblock %}",
)
BOMBS = (
    *("{{ " + step + " }}" for step in ONE_STEP),
    *(
        f"{{% set ns = namespace(x={first}) %}}{{% for i in range(99) %}}{{% set ns.x = {step} %}}"
        f"{{% endfor %}}{{{{ ns.x }}}}"
        for first, step in DOUBLES
    ),
    *(
        "".join(f"{{% for {a} in range(99999) %}}" for a in "abc") + inner + "{% endfor %}" * 3
        for inner in ("", "x", "{{ a }}", "{% set q = a ~ b %}", "{{ loop.index }}")
    ),
    *WHOLE,
)  # fmt: skip


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # in kiB


@pytest.mark.slow
@pytest.mark.parametrize("text", BOMBS)
def test_a_bomb_is_stopped_in_validate_and_in_a_run(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "SECONDS", 0.2)
    began = time.process_time()
    with pytest.raises(RecordError, match=r"^prompt\.user was stopped: it .*; a template makes"):
        Template(text + "{{ message }}", "prompt.user").render(RECORD)
    assert time.process_time() - began < 6
    [mistake] = template_mistakes(text + "{{ message }}", "prompt.user", ["message"])
    assert mistake.startswith("`prompt.user` was stopped: ")


@pytest.mark.slow
@pytest.mark.parametrize("step", ONE_STEP)
def test_so_is_an_expression(step: str) -> None:
    text = f"({step}) == message"
    with pytest.raises(RecordError, match=r"^routes\[0\]\.when was stopped: "):
        Expression(text, "routes[0].when").evaluate(RECORD)
    assert "was stopped" in template_mistakes(text, "when", ["message"], expression=True)[0]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["ns.x ~ ns.x", "ns.x * 9", "ns.x.center(99)", "ns.x|indent(7, true)",
              "ns.x|replace('a', 'aaa')", "ns.x|e", "'%9s' % ns.x", "ns.x.join('abc')",
              "[ns.x, ns.x]|join('-')", "ns.x|wordwrap(2)", "ns.x|urlencode", "ns.x[1:]"]),
             min_size=1, max_size=4),
    st.integers(1, 200),
)  # fmt: skip
def test_whatever_steps_are_put_in_a_loop(steps: list[str], turns: int) -> None:
    sets = "".join(f"{{% set ns.x = {step} %}}" for step in steps)
    text = f"{{% set ns = namespace(x='a') %}}{{% for i in range({turns}) %}}{sets}{{% endfor %}}"
    began = time.process_time()
    try:
        Template(text, "prompt.user").render(RECORD)
    except RecordError as error:
        assert "was stopped" in str(error)
    assert time.process_time() - began < 6


@pytest.mark.parametrize(
    "text",
    ["(" * 5000 + "1" + ")" * 5000, "[" * 3000, "9" * 5000, "not " * 3000 + "1", "-" * 3000 + "1"],
)
def test_what_cannot_be_compiled_is_a_mistake(text: str) -> None:
    assert template_mistakes("{{ " + text + " }}", "prompt.user", ["message"])
    assert template_mistakes(text, "routes[0].when", ["message"], expression=True)


def test_loops_nested_too_deep_for_python() -> None:
    text = "{% for i in [1] %}" * 30 + "{% endfor %}" * 30
    [mistake] = template_mistakes(text, "prompt.user", ["message"])
    assert mistake.startswith("`prompt.user` is too complex for Jinja2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ message }}", RECORD.fields["message"]),  # what a record holds is never evaluated
        ("{% set m = message %}{{ m|upper|lower }}", RECORD.fields["message"]),
        ("{% for p in parts %}{{ loop.index }}/{{ loop.length }}:{{ p * 2 }} {% endfor %}",
         "1/3:2 2/3:4 3/3:6 "),
        ("{% for p in parts if p > 1 %}{{ p }}{% else %}none{% endfor %}", "23"),
        ("{% for k, v in record.items() if k == 'parts' %}{{ k }}={{ v }}{% endfor %}",
         "parts=[1, 2, 3]"),
        ("{{ parts|join(', ') }} {{ parts|sum }} {{ parts|tojson }}", "1, 2, 3 6 [1, 2, 3]"),
        ("{{ parts|map('string')|join('-') }}", "1-2-3"),
        ("{% for row in parts|batch(2, 0) %}{{ row }}{% endfor %}", "[1, 2][3, 0]"),
        ("{{ 'a' ~ 1 ~ none }} {{ '%05.1f' % 3.14159 }} {{ '{:>4}|'.format('é') }}",
         "a1None 003.1    é|"),
        ("{{ 'ab'.center(6) }}|{{ 'a b'|title }}|{{ 2 ** 10 }}|{{ 7 % 4 }}", "  ab  |A B|1024|3"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(parts) }}", "<1><[1, 2, 3]>"),
        ("{{ 'x' * 100000 }}", "x" * 100000),
    ],
)  # fmt: skip
def test_ordinary_templates_are_what_they_were(text: str, said: str) -> None:
    assert Template(text, "prompt.user").render(RECORD) == said


@pytest.mark.parametrize(
    "text",
    [
        f"{{{{ {start}{reach} }}}}"
        for start, reach in itertools.product(
            ("''", "message", "parts", "record", "range", "namespace()", "cycler"),
            (".__class__", "['__class__']", "|attr('__class__')", ".__init__.__globals__"),
        )
    ],
)
def test_pythons_insides_are_out_of_reach(text: str) -> None:
    with pytest.raises(RecordError, match=r"^prompt\.user"):
        Template(text, "prompt.user").render(RECORD)
