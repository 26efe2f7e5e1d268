"""surelocal from Python: what goes in, what comes out, and that it goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from runner.errors import JobError, UsageError
from runner.types import Notice
from surelocal import Job, load_job, make_job, run
from tests import jobs
from tests.fakes import JOB

ROWS = jobs.records(["T-1", "T-2"], "template") + jobs.records(["C-1"])


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return jobs.write_job(tmp_path, "http://127.0.0.1:1", ROWS, {"api_key_env": "NOBODY_HAS_IT"})


def quiet(notice: Notice) -> None:
    return None


def test_a_job_file_in_and_a_table_out(job: Path) -> None:
    done = run(job, run_dir=job.parent / "run", say=quiet)
    assert done.summary.decided_by == {"template": 2}
    assert [row["id"] for row in done.rows()] == ["T-1", "T-2", "C-1"]
    table = done.table()
    assert table.column("status").to_pylist() == ["done", "done", "waiting"]
    assert done.path.read_text("utf-8").count("\n") == 3


@pytest.mark.parametrize("kind", ["arrow", "pandas", "rows"])
def test_records_as_a_table(job: Path, kind: str) -> None:
    other: Any = pa.Table.from_pylist(jobs.records(["X-1", "X-2", "X-3"], "template"))
    if kind == "pandas":
        other = other.to_pandas()
    elif kind == "rows":
        other = other.to_pylist()
    for _ in range(2):  # the second goes on where nothing is left to do
        done = run(job, other, run_dir=job.parent / "run", say=quiet)
        assert [row["id"] for row in done.rows()] == ["X-1", "X-2", "X-3"]
    assert done.summary.decided_by == {"template": 3}


def test_a_job_of_plain_values(job: Path) -> None:
    given = load_job(job).job.model_dump(mode="json", by_alias=True, exclude={"folder"})
    made = make_job(given, job.parent)
    assert isinstance(made, Job)
    assert made.identity() == load_job(job).job.identity()
    done = run(made, run_dir=job.parent / "run", limit=1, say=quiet)
    assert done.summary.records == 1


def test_mistakes_are_told_together() -> None:
    with pytest.raises(JobError) as told:
        make_job({"name": "x", "recrods": {}, "local": {"model": "m"}})
    assert "recrods" in str(told.value)
    assert "records" in str(told.value)


@pytest.mark.parametrize("records", [5, [5], "no-such-file.csv"])
def test_records_that_are_none(job: Path, records: Any) -> None:
    with pytest.raises(UsageError):
        run(job, records, run_dir=job.parent / "run", say=quiet)


def test_where_an_event_loop_runs(job: Path) -> None:
    async def notebook() -> int:
        return run(job, run_dir=job.parent / "run", say=quiet).summary.records

    assert asyncio.run(notebook()) == 3


@pytest.mark.process
def test_importing_it_is_cheap(true_processes: None) -> None:
    heavy = "sorted({'torch', 'vllm', 'anthropic', 'openai', 'pyarrow'} & set(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, runner; print({heavy})"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == "[]"


ODD_FRAMES: list[tuple[dict[str, Any], list[str] | str]] = [
    ({"message": ["a", "b"], "index": pd.Index([7, 8], name="id")}, ["<a>", "<b>"]),
    ({"id": [7, 8], "message": pd.period_range("2026-01", periods=2, freq="M")},
     ["<2026-01>", "<2026-02>"]),
    ({"id": [7, 10**30], "message": ["a", "b"]}, "no table: .*too large.*astype"),
    ({"id": [7, "x"], "message": ["a", "b"]}, "no table: .*column id.*astype"),
    ({"id": [7, 8], "message": [1j, 2j]}, "no table: .*column message"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "values"), ODD_FRAMES)
def test_odd_columns_of_a_frame(
    tmp_path: Path, columns: dict[str, Any], values: list[str] | str
) -> None:
    frame = pd.DataFrame({n: c for n, c in columns.items() if n != "index"}, columns.get("index"))
    greets = {"when": "true", "to": "template", "answer": "<{{ message }}>"}
    whole = JOB | {"records": {"path": "r.csv", "id": "id"}, "answer": "text", "routes": [greets]}
    if isinstance(values, str):
        with pytest.raises(UsageError, match=values):
            run(whole, frame, run_dir=tmp_path / "run", say=quiet)
        return
    done = run(whole, frame, run_dir=tmp_path / "run", say=quiet)
    assert [(row["id"], row["value"]) for row in done.rows()] == list(
        zip(["7", "8"], values, strict=True)
    )
