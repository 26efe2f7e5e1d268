"""A cell is text: what an expression over it can never be is told before the run, and what a run
cannot tell stays on the machine."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from escalation.policy import Router
from runner.errors import JobError, RecordError
from runner.job import Job
from runner.job.file import load_job
from runner.pipeline.preflight import check_job
from runner.records.source import job_kinds, job_records
from runner.templates.column_kinds import Kind, kind_mistakes
from runner.types import Event, Notice, Record, Route
from tests.fakes import JOB
from tests.jobs import DEMO_MODEL

CELLS: Mapping[str, Kind] = dict.fromkeys(("is_eu", "risk", "consent", "region", "amount"), "cell")
LITERALS = st.sampled_from(["true", "false", "5", "0", "-1", "2.5", "1e3"])
COLUMNS = st.sampled_from(["is_eu", "record['risk']", "record.region", "amount"])
KEEPING_TEXT = st.sampled_from(
    ["{}", "{}|lower", "{}|trim|upper", "({})", "{}.strip()", "{}|string"]
)
OPERATORS = st.sampled_from(["==", "!=", "<", ">=", "in_list", "is_eq"])
AROUND = st.sampled_from(["{}", "not ({})", "region == 'EU' and {}", "({}) or region == 'EU'"])


def told(text: str, kinds: Mapping[str, Kind] = CELLS) -> list[str]:
    return kind_mistakes(text, "privacy.keep_local", kinds, decides=True)


@given(COLUMNS, KEEPING_TEXT, OPERATORS, LITERALS, AROUND, st.booleans())
def test_a_cell_against_a_number_or_boolean_is_told(
    column: str, keeping: str, op: str, literal: str, around: str, turned: bool
) -> None:
    side = keeping.format(column)
    if op == "in_list":
        text = f"{side} in ['x', {literal}]"
    elif op == "is_eq":
        text = f"{side} is eq({literal})"
    else:
        text = f"{literal} {op} {side}" if turned else f"{side} {op} {literal}"
    assert any("holds text" in said for said in told(around.format(text))), text


@given(COLUMNS, KEEPING_TEXT, AROUND)
def test_a_cell_used_bare_is_told(column: str, keeping: str, around: str) -> None:
    [mistake] = told(around.format(keeping.format(column)))
    assert "records.types" in mistake and "'true'" in mistake


@pytest.mark.parametrize(
    "text", ["amount + 5 > 1", "amount * risk == 1", "risk - 1 == 0", "2 ** risk == 4"]
)
def test_computing_with_cells_is_told(text: str) -> None:
    assert any("computes with" in said for said in told(text))


@pytest.mark.parametrize(
    "text",
    [
        "is_eu == 'true'", "risk|int == 5", "amount|float > 2.5", "region in ['EU', 'UK']",
        "region != ''", "'E' in region", "region|length > 2", "risk|int in [4, 5]",
        "region.startswith('E')", "other == 5", "other", "true", "not false", "1 == 1",
        "region|default('') == 'EU'", "region ~ 5 == 'EU5'",
    ],
)  # fmt: skip
def test_what_can_hold_is_left_alone(text: str) -> None:
    assert told(text) == []


def test_types_make_it_right_and_their_contrary_wrong() -> None:
    kinds: dict[str, Kind] = {**CELLS, "is_eu": "bool", "risk": "number"}
    for fine in (
        "is_eu",
        "not is_eu",
        "is_eu == true",
        "risk == 5",
        "risk + 1 > 3",
        "risk == none",
    ):
        assert told(fine, kinds) == []
    assert "holds a bool" in told("is_eu == 'true'", kinds)[0]
    assert "holds a number" in told("risk in ['5']", kinds)[0]


def job_file(folder: Path, csv: str, **keys: Any) -> Path:
    (folder / "records.csv").write_text(csv, "utf-8")
    job = {
        "name": "kinds",
        "records": {"path": "records.csv"},
        "prompt": {"user": "{{ message }}"},
        "answer": {"labels": ["a", "b"]},
        "local": {"model": str(DEMO_MODEL)},
        "confidence": {"threshold": 0},
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    return path


def mistakes(path: Path) -> str:
    try:
        check_job(load_job(path, strict=False))
    except JobError as error:
        return str(error)
    return ""


CLOSED = {"provider": "anthropic", "model": "claude-sonnet-5-5", "budget_usd": 1}
CSV = "id,message,is_eu,risk\n1,a,true,5\n2,b,no,\n3,c,maybe,1\n"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"privacy": {"keep_local": "is_eu == true"}}, "privacy.keep_local"),
        ({"privacy": {"keep_local": "not is_eu"}}, "privacy.keep_local"),
        ({"routes": [{"when": "risk == 5", "to": "review"}]}, "routes[0].when"),
        ({"routes": [{"when": "is_eu", "to": "review"}]}, "routes[0].when"),
        ({"prompt": {"user": "{% if risk > 3 %}!{% endif %}{{ message }}"}}, "prompt.user"),
        ({"prompt": {"user": "{{ risk * 2 }} {{ message }}"}}, "prompt.user"),
        (
            {
                "confidence": {"policy": "budget", "stakes": "risk * 2"},
                "escalation": {
                    "provider": "anthropic",
                    "model": "claude-sonnet-5-5",
                    "budget_usd": 1,
                },
            },
            "confidence.stakes",
        ),
    ],
)
def test_a_job_over_csv_is_told_before_it_runs(
    tmp_path: Path, keys: dict[str, Any], line: str
) -> None:
    said = mistakes(job_file(tmp_path, CSV, **keys))
    assert f"`{line}`" in said and "records.types" in said and said.count("line ") == 1
    types = {"is_eu": "bool", "risk": "int"}
    assert (
        mistakes(job_file(tmp_path, CSV, **keys, records={"path": "records.csv", "types": types}))
        == ""
    )


def test_a_type_of_no_column_is_told(tmp_path: Path) -> None:
    records = {"path": "records.csv", "types": {"is_EU": "bool"}}
    assert "did you mean `is_eu`?" in mistakes(job_file(tmp_path, CSV, records=records))


def test_cells_become_what_they_are_declared(tmp_path: Path) -> None:
    types = {"is_eu": "bool", "risk": "int"}
    path = job_file(tmp_path, CSV, records={"path": "records.csv", "types": types})
    job = load_job(path).job
    assert job_kinds(job) == {"id": "cell", "message": "cell", "is_eu": "bool", "risk": "number"}
    first, second, third = job_records(job)
    assert (first.fields["is_eu"], first.fields["risk"]) == (True, 5)
    assert (second.fields["is_eu"], second.fields["risk"]) == (False, None)
    assert third.problem is not None and "`is_eu` holds 'maybe'" in third.problem
    assert second.given == {"id": "2", "message": "b", "is_eu": "no", "risk": ""}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("bool", " WAHR ", True), ("bool", "n", False), ("bool", "", None), ("int", "007", 7),
        ("int", "5.0", 5), ("float", "1e3", 1000.0), ("decimal", "12.50", Decimal("12.50")),
        ("date", "2026-01-31", datetime.date(2026, 1, 31)), ("text", " x", " x"),
        ("datetime", "2026-01-31T12:00:00Z",
         datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)),
    ],
)  # fmt: skip
def test_texts_of_each_type(tmp_path: Path, kind: str, text: str, value: object) -> None:
    for ending, content in (
        ("csv", f'id,x\n1,"{text}"\n'),
        ("jsonl", json.dumps({"id": 1, "x": text})),
    ):
        (tmp_path / f"r.{ending}").write_text(content + "\n", "utf-8")
        records = {"path": str(tmp_path / f"r.{ending}"), "types": {"x": kind}}
        [record] = job_records(Job.model_validate({**JOB, "records": records}))
        assert record.problem is None and record.fields["x"] == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [("bool", "maybe"), ("bool", "2"), ("int", "1,234"), ("int", "5.5"), ("int", "٣"),
     ("float", "nan"), ("float", "1e999"), ("float", "1,5"), ("decimal", "inf"),
     ("date", "31.01.2026"),
     ("date", "20260131"), ("datetime", "today"), ("int", "1_000"), ("int", "0x1F")],
)  # fmt: skip
def test_what_is_not_of_its_type_is_that_records_error(
    tmp_path: Path, kind: str, text: str
) -> None:
    (tmp_path / "r.csv").write_text(f'id,x\n1,"{text}"\n2,\n', "utf-8")
    records = {"path": str(tmp_path / "r.csv"), "types": {"x": kind}}
    bad, good = job_records(Job.model_validate({**JOB, "records": records}))
    assert bad.problem is not None and bad.problem.startswith("line 2: the column `x` holds")
    assert good.problem is None


def test_an_amount_with_a_decimal_comma_is_told_how_a_rule_reads_it(tmp_path: Path) -> None:
    [mistake] = told("amount > 1000")
    assert "they are never equal" not in mistake and "amount == " not in mistake
    reading = "`amount | replace('.', '') | replace(',', '.') | float`"
    assert reading in mistake
    (tmp_path / "r.csv").write_text('id,amount\n1,"1.250,50"\n2,x\n', "utf-8")
    records = {"path": str(tmp_path / "r.csv"), "types": {"amount": "decimal"}}
    bad, other = job_records(Job.model_validate({**JOB, "records": records}))
    assert bad.problem is not None and reading in bad.problem
    assert other.problem is not None and other.problem.endswith("fix the cell or the type")
    rule = f"({reading.strip('`')}) > 1250"
    assert told(rule) == []
    record = Record(0, "1", {"amount": "1.250,50"}, 2)
    assert router("false", when=rule).route(record).route is Route.CLOSED


# -- what stays --------------------------------------------------------------------------------


def router(keep: str, told: list[Notice] | None = None, when: str = "true") -> Router:
    keys = {"routes": [{"when": when, "to": "closed"}], "privacy": {"keep_local": keep}}
    return Router(Job.model_validate({**JOB, **keys}), None if told is None else told.append)


VALUES = st.one_of(
    st.none(), st.text(), st.lists(st.integers()), st.floats(), st.integers(), st.booleans(),
    st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


@given(VALUES)
def test_only_what_is_plainly_false_leaves(value: Any) -> None:
    routed = router("x").route(Record(0, "1", {"x": value}, 2))
    plainly = value is False or (isinstance(value, int | float) and value == 0)
    assert routed.may_leave is plainly
    assert routed.route is (Route.CLOSED if plainly else Route.REVIEW)


@pytest.mark.parametrize(
    "keep",
    [
        "x > 3",
        "missing == 'EU'",
        "x.y.z == 1",
        "x == 'EU'",
        "not x == 'EU'",
        "x in ['EU']",
        "y / 0",
    ],
)
def test_what_cannot_be_told_stays_and_is_said_once(keep: str) -> None:
    told: list[Notice] = []
    looking = router(keep, told)
    for number in range(3):
        routed = looking.route(Record(number, str(number), {"x": None, "y": 1}, 2))
        assert (routed.route, routed.may_leave) == (Route.REVIEW, False)
    assert [one.event for one in told] in ([], [Event.STAYS_LOCAL])
    assert told or keep.startswith("not"), "of what holds plainly nothing is said"


@pytest.mark.parametrize("keep", ["x is not none and x == 'EU'", "(x | default('')) == 'EU'"])
def test_a_null_leaves_where_the_expression_sees_to_it(keep: str) -> None:
    assert router(keep).route(Record(0, "1", {"x": None}, 2)).may_leave


@given(st.sampled_from(["eu", " EU", "EU ", "Eu", "\tEU", "eU\n"]), st.booleans())
def test_a_text_that_is_nearly_the_one_compared_with_is_said_once(
    value: str, in_rule: bool
) -> None:
    told: list[Notice] = []
    test = "region == 'EU'"
    looking = router(*(("false", told, test) if in_rule else (test, told)))
    for number in range(3):
        looking.route(Record(number, str(number), {"region": value}, 2))
    [one] = told
    assert repr(value) in one.text and "`region|trim|upper == 'EU'`" in one.text
    assert (one.event, one.fields["column"]) == (Event.NEARLY_EQUAL, "region")


def test_a_rule_that_gives_the_text_false_is_that_records_error() -> None:
    with pytest.raises(RecordError, match="gives the text 'false'"):
        router("false", when="vip").route(Record(0, "1", {"vip": "false"}, 2))
    assert (
        router("false", when="vip").route(Record(0, "1", {"vip": "yes"}, 2)).route is Route.CLOSED
    )
