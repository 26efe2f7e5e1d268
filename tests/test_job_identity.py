"""What makes two jobs the same: a run directory belongs to one of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.job import Job
from tests.fakes import JOB

FULL: dict[str, Any] = {
    **JOB,
    "answer": {"schema": {"type": "object", "properties": {"a": {}, "b": {}}}},
    "routes": [{"when": "x", "to": "local"}],
    "escalation": {"model": "claude-sonnet-5-5", "budget_usd": 1},
    "privacy": {"redact": ["email"]},
}


def identity(**keys: Any) -> dict[str, str]:
    return Job.model_validate({**FULL, **keys}).identity()


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_what_a_job_is(chance: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return [shuffled(v) for v in value] if isinstance(value, list) else value
        keys = chance.sample(list(value), len(value))
        return {k: value[k] if k == "schema" else shuffled(value[k]) for k in keys}

    assert Job.model_validate(shuffled(FULL)).identity() == identity()


def test_a_schemas_order_is_the_order_of_answering() -> None:
    turned = {"schema": {"type": "object", "properties": {"b": {}, "a": {}}}}
    assert identity(answer=turned)["answer"] != identity()["answer"]


@settings(deadline=None)
@given(st.text(), st.text())
def test_another_prompt_is_another_job(one: str, other: str) -> None:
    same = identity(prompt={"user": one}) == identity(prompt={"user": other})
    assert same == (one == other)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"prompt": {"user": "{{ x }}"}}, "prompt"),
        ({"prompt": {"system": "x", "user": "{{ message }}"}}, "prompt"),
        ({"local": {"model": "nobody/other"}}, "local"),
        ({"local": {**JOB["local"], "sampling": {"seed": 1}}}, "local"),
        ({"routes": []}, "routes"),
        ({"confidence": {"threshold": 0.8}}, "confidence"),
        ({"escalation": {"model": "claude-haiku-5-5"}}, "escalation.model"),
        ({"privacy": {"redact": []}}, "privacy"),
        ({"records": {"path": "records.csv", "id": "key"}}, "records.id"),
    ],
)
def test_what_answers_depend_on_is_part_of_what_a_job_is(keys: dict[str, Any], part: str) -> None:
    before, after = identity(), identity(**keys)
    assert [name for name in before if before[name] != after[name]] == [part]


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "other"},
        {"records": {"path": "moved.csv"}},
        {"escalation": {"model": "claude-sonnet-5-5", "budget_usd": 99, "concurrency": 2}},
        {"output": {"format": "csv"}},
        {"local": {**JOB["local"], "window": 3}},
    ],
)
def test_what_they_do_not_depend_on_is_not(keys: dict[str, Any]) -> None:
    assert identity(**keys) == identity()


def test_a_models_files_are_part_of_what_a_job_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = identity(local={"model": str(tmp_path)})
    (tmp_path / "config.json").write_text("{ }")
    after = identity(local={"model": str(tmp_path)})
    assert [name for name in before if before[name] != after[name]] == ["local.model files"]


def test_a_job_survives_being_written_down() -> None:
    job = Job.model_validate({**FULL, "routes": [{"when": "x", "to": "closed"}]})
    again = Job.model_validate(job.model_dump(mode="json", by_alias=True))
    assert again.identity() == job.identity()
