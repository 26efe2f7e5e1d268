"""Which lines of a batch file ask for one and the same answer, and what is said of others."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import JobError
from runner.formats.openai_request import in_one_order
from runner.job.file import load_job
from runner.records import read_records

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y", 1]}, "b": {"type": ["string", "null"]}, "c": {}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def line(name: str, **body: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def asked(schema: dict[str, Any], name: str = "n", **keys: Any) -> dict[str, Any]:
    return {"json_schema": {"schema": schema, "name": name, **keys}, "type": "json_schema"}


def written(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "batch.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def shuffled(part: Any, chance: random.Random, key: str = "") -> Any:
    if isinstance(part, dict):
        names = chance.sample(list(part), len(part))
        return {name: shuffled(part[name], chance, name) for name in names}
    if isinstance(part, list) and key in ("required", "enum", "type"):
        return chance.sample(part, len(part))
    return part


@given(st.randoms(use_true_random=False))
def test_the_order_of_what_is_a_set_is_none_of_the_answer_s(chance: random.Random) -> None:
    assert in_one_order(shuffled(SCHEMA, chance)) == in_one_order(SCHEMA)


@pytest.mark.parametrize(
    "changed",
    [
        {"required": ["a"]}, {"additionalProperties": True}, {"prefixItems": [{}, {"a": 1}]},
        {"properties": {**SCHEMA["properties"], "a": {"enum": ["x", "y", "1"]}}},
    ],
)  # fmt: skip
def test_another_schema_is_another_answer(changed: dict[str, Any]) -> None:
    assert in_one_order({**SCHEMA, **changed}) != in_one_order(SCHEMA)


def test_lines_that_ask_for_the_same_in_other_words(tmp_path: Path) -> None:
    other = shuffled(copy.deepcopy(SCHEMA), random.Random(1))
    path = written(
        tmp_path,
        line("a", response_format=asked(SCHEMA)),
        line("b", response_format=asked(other, "other", strict=True, description="d")),
        line("c", response_format=asked({**SCHEMA, "required": ["c"]})),
        line("d"),
    )
    problems = [r.problem for r in read_records(path, "custom_id", fmt="openai_batch")]
    assert problems[:2] == [None, None]
    assert all("is not that of line 1" in str(problem) for problem in problems[2:])


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"custom_id": "a", "params": {"messages": []}}, "is an Anthropic batch file"),
        (line("a", response_format={"type": "grammar"}), "must be text, json_object, or"),
        (line("a", response_format=asked({"type": "array"})), "must describe an object"),
    ],
)
def test_a_file_that_cannot_be_answered_is_one_mistake(
    tmp_path: Path, first: dict[str, Any], said: str
) -> None:
    written(tmp_path, first)
    job = tmp_path / "job.yaml"
    job.write_text("name: b\nrecords: {path: batch.jsonl}\nlocal: {model: m}\n")
    with pytest.raises(JobError) as caught:
        load_job(job)
    (mistake,) = caught.value.mistakes
    assert said in mistake and mistake.startswith("line 2: `records`")


def test_an_odd_first_line_hides_no_batch_file(tmp_path: Path) -> None:
    odd = {key: value for key, value in line("a").items() if key != "custom_id"}
    written(tmp_path, odd, line("b"))
    job = tmp_path / "job.yaml"
    job.write_text("name: b\nrecords: {path: batch.jsonl}\nlocal: {model: m}\n")
    assert load_job(job).job.records.format == "openai_batch"
