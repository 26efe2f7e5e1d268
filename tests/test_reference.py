"""docs/reference: as the code gives it, complete, of one voice, and true."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import click
import jsonschema
import pytest
import yaml

from runner.cli.main import main
from runner.job.file import make_job
from runner.job.records import Output
from runner.report.page import _REASONS as PAGE_WORDS
from runner.status.summary import CAUSES
from runner.types import Reason
from tests.fakes import JOB, surelocal, write_job

pytest.importorskip("prometheus_client", reason="the server's metrics are a page of it")
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

import make_reference  # noqa: E402
from reference import commands, job, results  # noqa: E402
from reference.text import LackingError, under  # noqa: E402

# Of several commands, and for each of them something else.
OWN_WORDS = {"--json", "--labels", "--output", "--records", "--run-dir"}
JOBS = [
    ROOT / "configs" / "demo" / "job.yaml",
    ROOT / "runner" / "starter" / "job.yaml",
    *(ROOT / "docs").rglob("job*.yaml"),
]


def accepted(given: Any) -> bool:
    return jsonschema.Draft202012Validator(job.schema()).is_valid(given)


# -- as the code gives it --------------------------------------------------------------------------


def test_every_page_is_as_the_code_gives_it_now() -> None:
    assert make_reference.stale() == [], "run `make reference`"


def test_nothing_else_lies_beside_them() -> None:
    there = {path.name for path in make_reference.FOLDER.iterdir()}
    assert there == set(make_reference.written())


def test_a_page_that_was_changed_by_hand_is_found_out(tmp_path: Path) -> None:
    for name, text in make_reference.written().items():
        (tmp_path / name).write_text(text, "utf-8")
    assert make_reference.stale(tmp_path) == []
    (tmp_path / "cli.md").write_text("By hand.\n", "utf-8")
    (tmp_path / "job.md").unlink()
    assert make_reference.stale(tmp_path) == ["cli.md", "job.md"]


# -- complete --------------------------------------------------------------------------------------


def test_every_option_has_a_help() -> None:
    assert commands.lacking() == []


def test_every_command_and_each_of_its_options_is_there() -> None:
    page = (make_reference.FOLDER / "cli.md").read_text("utf-8")
    for path, command in commands.commands():
        shown = surelocal(*path.split()[1:], "--help")
        assert shown.exit_code == 0, path
        part = page.partition(f"## {path}\n")[2].partition("\n## ")[0]
        assert commands.usage(path, command) in part
        for name in re.findall(r"^ +(?:-\w, )?(--[\w-]+)", shown.stdout, re.MULTILINE):
            assert f"`{name}`" in part or name == "--help", (path, name)


def test_the_exit_statuses_are_those_that_commands_end_with() -> None:
    from runner import errors
    from runner.cli.common import SOME_UNFINISHED

    ends = {error.exit_status for error in vars(errors).values() if hasattr(error, "exit_status")}
    assert {0, *ends, SOME_UNFINISHED, 130} == set(commands.statuses())


def test_every_key_of_a_job_has_a_description() -> None:
    paths = [path for path, *_ in job.every_key()]
    assert len(paths) == len(set(paths))
    assert {"local.preset", "local.sampling.seed", "routes[].when"} <= set(paths)


def test_every_reason_has_words_and_a_cause() -> None:
    assert list(results.reasons()) == list(Reason)
    for reason, (words, cause, _) in results.reasons().items():
        assert words and not words.endswith("."), reason
        assert cause.endswith("."), reason


def test_every_format_and_table_is_there() -> None:
    formats = get_args(Output.model_fields["format"].annotation)
    assert {"auto", *results.FORMATS} == set(formats)
    assert list(results.tables()) == list(results.TABLES)


def test_what_has_no_description_is_named() -> None:
    class Half:
        told = 1
        """It is."""
        untold = 2

    with pytest.raises(LackingError, match=r"Half\.untold has no description"):
        under(Half)


# -- of one voice ----------------------------------------------------------------------------------


def test_a_reason_has_the_same_words_wherever_it_is_shown() -> None:
    for reason, (words, *_) in results.reasons().items():
        elsewhere = {**CAUSES, **PAGE_WORDS}.get(reason)
        assert elsewhere is not None and words.lower() == elsewhere.lower(), reason


def test_an_option_of_several_commands_has_the_same_words() -> None:
    said: defaultdict[str, set[str | None]] = defaultdict(set)
    groups = [("surelocal", main), *commands.commands()]
    for _, command in groups:
        for option in command.params:
            if isinstance(option, click.Option):
                said[option.opts[-1]].add(option.help)
    assert {name for name, texts in said.items() if len(texts) > 1} <= OWN_WORDS


# -- true ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_schema_takes_every_job_here(path: Path) -> None:
    assert accepted(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "keys",
    [
        {"answer": "text"},
        {"local": {"preset": "qwen3-8b/thinking", "sampling": {"top_k": 20}}},
        {"escalation": {"budget_usd": 1.5, "lane": "auto", "deadline": "10h"}},
        {"escalation": {"provider": "local", "model": "m", "base_url": "http://big-box:8000/v1"}},
        {"routes": [{"when": "x", "to": "template", "answer": {"kind": "mail"}}]},
        {"routes": [{"when": "x", "to": "template", "answer": 5}]},
        {"confidence": {"target_error": 0.02, "fields": {"a": 0.01}, "audit": {"rate": 0.02}}},
        {"cluster": {"replicas": 2, "address": "local"}},
    ],
)
def test_the_schema_takes_what_a_job_may_hold(keys: dict[str, Any]) -> None:
    assert accepted({**JOB, **keys})
    from runner.job.presets import resolved

    assert make_job(resolved({**JOB, **keys})).name == "small"


@pytest.mark.parametrize(
    "keys",
    [
        {"recods": {}},
        {"records": {"path": "records.csv", "idd": "x"}},
        {"local": {"engine": "vllm"}},
        {"local": {"model": "m", "engine": "vlm"}},
        {"confidence": {"threshold": 1.5}},
        {"escalation": {"budget": 5}},
        {"name": "two words"},
        {"folder": "/tmp"},
    ],
)
def test_the_schema_refuses_what_a_job_may_not(keys: dict[str, Any]) -> None:
    assert accepted(JOB)
    assert not accepted({**JOB, **keys})


def test_the_schema_file_is_one_and_names_no_key_twice() -> None:
    text = (make_reference.FOLDER / job.SCHEMA).read_text("utf-8")
    given = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(given)
    assert given["title"] == "A surelocal job"
    assert '"title": "Budget Usd"' not in text


def test_the_python_page_begins_with_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    page = (make_reference.FOLDER / "python.md").read_text("utf-8")
    example = page.partition("```python\n")[2].partition("```")[0]
    write_job(tmp_path, "id,message\n").rename(tmp_path / "triage.yaml")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"frame": pandas.DataFrame({"id": ["1"], "message": ["hallo"]})}
    exec(example, found)
    assert list(found["frame"]["value"]) == ["hallo"]
