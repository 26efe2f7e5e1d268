"""What YAML reads as something else than was written is told, with its line and the quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import JobError
from runner.job.file import load_job

JOB = """\
name: small
records: {path: records.csv}
prompt: {user: "{{ message }}"}
local: {model: nobody/no-model}
"""
CHANGED = {
    "yes": "true", "no": "false", "NO": "false", "on": "true", "Off": "false", "007": "7",
    "1.10": "1.1", "12:30": "750", "1_000": "1000", "0x1F": "31", "~": "null", "1.0e+3": "1000.0",
    "0b11": "3", ".inf": "inf", "190:20:30": "685230", "Null": "null", "2.50": "2.5",
    "+49": "49",
}  # fmt: skip
KEPT = [
    "DE", "'no'", '"007"', "true", "false", "1", "-5", "0.5", "null", "2026-01-02", "1e3", "x y",
]  # fmt: skip
PLACES = {
    "answer.schema.properties.x.enum[1]":
        "answer:\n  schema: {type: object, properties: {x:\n    {enum: [a, VALUE]}}}\n",
    "answer.schema.properties.x.const":
        "answer:\n  schema: {type: object, properties: {x:\n    {type: string, const: VALUE}}}\n",
    "answer.schema.properties.x.anyOf[0].enum[0]":
        "answer:\n  schema: {type: object, properties: {x: {anyOf:\n    [{enum: [VALUE]}]}}}\n",
    "answer.schema.properties.enum.items.enum[0]":
        "answer:\n  schema: {type: object, properties: {enum:\n    {items: {enum: [VALUE]}}}}\n",
    "routes[0].answer.x": "answer:\n  schema: {type: object, properties: {x: {type: string}}}\n"
        "routes: [{when: 'true', to: template, answer: {x: VALUE}}]\n",
    "routes[0].answer": "answer: {labels: [a, b]}\n\n"
        "routes: [{when: 'true', to: template, answer: VALUE}]\n",
}  # fmt: skip


def told(folder: Path, answer: str, value: str) -> str:
    path = folder / "job.yaml"
    path.write_text(JOB + answer.replace("VALUE", value), "utf-8")
    try:
        load_job(path)
    except JobError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_value_is_told_with_its_line(tmp_path: Path, place: str) -> None:
    for value, read in CHANGED.items():
        if value == "~" and place == "routes[0].answer":
            continue  # no answer at all: told in other words
        said = told(tmp_path, PLACES[place], value)
        assert f"line 7: `{place}`: YAML reads {value} here as {read};" in said, (value, said)
        assert f"'{value}'" in said
        assert "YAML reads" not in told(tmp_path, PLACES[place], f"'{value}'")
    for value in KEPT:
        assert "YAML reads" not in told(tmp_path, PLACES[place], value), value


@pytest.mark.parametrize(
    ("kind", "value"),
    [("boolean", "yes"), ("integer", "007"), ("number", "1.10"), ("[boolean, string]", "no")],
)
def test_what_its_type_says_is_meant_is_not_told(tmp_path: Path, kind: str, value: str) -> None:
    rule = f"{{type: {kind}, enum: [VALUE]}}"
    answer = "answer: {schema: {type: object, properties: {x: " + rule + "}}}\n"
    assert told(tmp_path, answer, value) == ""


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{properties: {no: {type: string}}}", "has the name False at `properties.x.properties`"),
        ("{properties: {1: {}}, required: ['1']}", "has the name 1 at"),
        ("{items: {$defs: {on: {}}}}", "has the name True at `properties.x.items.$defs`"),
        ("{minimum: .inf}", "has inf at `properties.x.minimum`"),
        ("{enum: [a, =]}", "put it in quotes"),
    ],
)
def test_what_json_could_not_hold_is_told(tmp_path: Path, rule: str, said: str) -> None:
    found = told(tmp_path, f"answer: {{schema: {{type: object, properties: {{x: {rule}}}}}}}\n", "")
    assert said in found and "line 5" in found
