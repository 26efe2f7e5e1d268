"""The command line: exit statuses, sentences, and what is left when a run is cut short."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import resource
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.fakes import read_rows, run_rows, surelocal, write_job

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "demo" / "job.yaml"
HEADER = "id,message\n"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "runner.cli.main", *map(str, arguments)]


def spawned(
    *arguments: object, before: Callable[[], None] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, without any key for a closed model."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=environment,
        timeout=timeout, check=False, preexec_fn=before,
    )  # fmt: skip


def many(folder: Path, count: int, **keys: Any) -> Path:
    return write_job(folder, HEADER + "".join(f"{n},{n:0100}\n" for n in range(count)), **keys)


def one_sentence(ran: subprocess.CompletedProcess[str]) -> str:
    """What was said of a failure: one line, and no traceback."""
    lines = ran.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith(("Traceback", "  File"))] == []
    (said,) = [line for line in lines if line.startswith("surelocal: ")]
    return said


# -- exit statuses and what goes where ----------------------------------------------------------


@pytest.mark.process
def test_done_is_0_and_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n2,b\n")
    ran = spawned("run", job, "--run-dir", tmp_path / "run", "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["records"], summary["status"]) == (2, {"done": 2})
    assert len(read_rows(Path(summary["results"]))) == 2
    assert "answered by a template" in ran.stderr


def test_some_unfinished_is_3_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    job = write_job(
        tmp_path, HEADER + "1,a\n2,b\n,c\n", routes=[{"when": "true", "to": "closed"}],
        escalation={"model": "claude-sonnet-5-5", "budget_usd": 1},
    )  # fmt: skip
    result = surelocal("run", job, "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "waiting for claude-sonnet-5-5 (no API key in the environment)" in result.stderr
    assert "no key in ANTHROPIC_API_KEY: nothing will be sent" in result.stderr
    escalate = f"surelocal escalate {tmp_path / 'run'}"
    assert (
        f"next, to send pending records, with a key in ANTHROPIC_API_KEY: {escalate}"
        in result.stderr
    )
    assert "next, for what is in error: fix the records" in result.stderr
    again = surelocal("escalate", tmp_path / "run")
    assert again.exit_code == 2
    assert "put one into ANTHROPIC_API_KEY" in again.stderr
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    wrong = surelocal("escalate", tmp_path / "run", "--budget", "lots")
    assert (wrong.exit_code, "not 'lots'" in wrong.stderr) == (2, True)


def test_what_may_follow_is_a_command_to_copy(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, HEADER + "1,a\n2,b\n"), tmp_path / "my run"
    options = ("run", job, "--run-dir", run, "--json")
    assert "next" not in surelocal(*options[:3], tmp_path / "done").stderr
    review = "routes=[{when: 'true', to: review}]"
    left = surelocal(*options, "--set", review)
    assert left.exit_code == 3 and "next" not in left.stdout
    (line,) = [line for line in left.stderr.splitlines() if line.startswith("next")]
    assert line == f"next, for a person: surelocal review export '{run}' queue.csv"
    logged = surelocal(*options, "--set", review, "--log-format", "json").stderr.splitlines()
    finished = next(event for event in map(json.loads, logged) if event["event"] == "finished")
    assert finished["next"] == [line]
    _, _, command = line.partition("surelocal ")
    *words, _ = shlex.split(command)
    assert surelocal(*words, tmp_path / "queue.csv").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'JOB.yaml'"),
        (["rnu"], "No such command 'rnu'"),
        (["run", "gone.yaml"], "cannot read the job file gone.yaml: No such file"),
        (["run", "JOB", "--limit", "0"], "0 is not in the range x>=1"),
        (["run", "JOB", "--set", "name"], "--set takes KEY=VALUE"),
        (["run", "JOB", "--set", "nmae=x"], "--set: unknown key `nmae`; did you mean `name`?"),
        (["run", "JOB", "-o", "out.txt"], "out.txt: cannot tell the format from the ending '.txt'"),
        (["status", "gone"], "gone is not a run directory: it has no ledger.sqlite"),
        (["export", "gone", "-o", "r.csv"], "gone is not a run directory"),
        (["escalate", "gone"], "gone is not a run directory"),
        (["export", "RUN", "-o", "r.txt"], "cannot tell the format from the ending '.txt'"),
        (["escalate", "RUN"], "has no `escalation`: there is nowhere to send to"),
    ],
)
def test_a_mistake_in_what_was_asked_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    if "RUN" in arguments:
        run_rows(job)
    monkeypatch.chdir(tmp_path)
    places = {"JOB": str(job), "RUN": "run"}
    result = surelocal(*(places.get(a, a) for a in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not (tmp_path / "runs").exists()


def test_the_command_alone_lists_the_commands() -> None:
    result = surelocal()
    assert result.exit_code == 2 and "Usage: " in result.stderr and "validate" in result.stderr


@pytest.mark.process
def test_init_gives_a_job_that_validates_and_is_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "job"
    assert surelocal("init", folder).exit_code == 0
    result = surelocal("validate", folder / "job.yaml")
    assert result.exit_code == 0, result.stderr
    (folder / "job.yaml").write_text("mine")
    result = surelocal("init", folder)
    assert result.exit_code == 2
    assert "job.yaml is already there; take another folder" in result.stderr
    assert (folder / "job.yaml").read_text() == "mine"
    result = surelocal("init", folder / "job.yaml" / "below")
    assert (result.exit_code, "cannot write to" in result.stderr) == (2, True)


def test_status_and_export_say_what_the_run_said(tmp_path: Path) -> None:
    rows = run_rows(write_job(tmp_path, HEADER + '1,"a, ""é"""\n,b\n1,c\n'), status=3)
    run = tmp_path / "run"
    summary = json.loads(surelocal("status", run, "--json").stdout)
    assert (summary["name"], summary["records"]) == ("small", 3)
    assert summary["status"] == {"error": 2, "done": 1}
    assert "in error" in surelocal("status", run).stdout
    for ending in ("jsonl", "csv", "parquet"):
        result = surelocal("export", run, "-o", tmp_path / f"r.{ending}")
        assert (result.exit_code, "3 rows in" in result.stderr) == (0, True)
    assert read_rows(tmp_path / "r.jsonl") == rows
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        flat = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "r.parquet").to_pylist()
    for column in ("id", "status", "value", "reason", "error"):
        expected = [one[column] for one in rows]
        assert [one[column] for one in table] == expected
        assert [one[column] or None for one in flat] == expected


# -- places that cannot be used -----------------------------------------------------------------


def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    result = surelocal("run", job, "--run-dir", job / "run")
    assert result.exit_code == 2
    assert f"cannot use {job / 'run'} as a run directory: Not a directory" in result.stderr


@pytest.mark.process
def test_a_run_directory_that_is_in_use(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = spawned("run", job, "--run-dir", tmp_path / "run")
    assert ran.returncode == 2
    assert one_sentence(ran) == f"surelocal: another surelocal is at work in {tmp_path / 'run'}"
    assert len(run_rows(job)) == 1


def test_a_ledger_that_is_none(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.sqlite").write_text("no database at all" * 100)
    for arguments in (["status"], ["run", job, "--run-dir"]):
        result = surelocal(*arguments, tmp_path / "run")
        assert (result.exit_code, "file is not a database" in result.stderr) == (1, True)


@pytest.mark.process
def test_a_full_disk_for_the_results_loses_nothing(tmp_path: Path) -> None:
    job = write_job(tmp_path, HEADER + "1,a\n")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    ran = spawned("run", job, "--run-dir", tmp_path / "run", "-o", tmp_path / "full.jsonl")
    assert ran.returncode == 1
    said = one_sentence(ran)
    assert "cannot write the results to" in said and "No space left on device" in said
    assert "surelocal export RUN_DIR -o FILE" in said
    assert surelocal("export", tmp_path / "run", "-o", tmp_path / "r.jsonl").exit_code == 0
    assert read_rows(tmp_path / "r.jsonl")[0]["value"] == "a"


@pytest.mark.process
@pytest.mark.parametrize("size", [2_000, 300_000])
def test_a_full_disk_for_the_ledger_and_then_room_again(tmp_path: Path, size: int) -> None:
    job = many(tmp_path, 3000)
    arguments = ("run", job, "--run-dir", tmp_path / "run")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    ran = spawned(*arguments, before=small_files)
    assert ran.returncode == 1, ran.stderr
    said = one_sentence(ran)
    assert str(tmp_path / "run") in said
    if size > 2_000:  # enough for the ledger to be begun
        assert "make room there and run the same command again" in said
    rows = run_rows(job)
    assert [one["id"] for one in rows] == [str(n) for n in range(3000)]
    assert {one["status"] for one in rows} == {"done"}


# -- cut short ----------------------------------------------------------------------------------


def recorded(run: Path) -> int:
    """How many outcomes are on disk, while the run goes on."""
    try:
        with sqlite3.connect(f"{(run / 'ledger.sqlite').as_uri()}?mode=ro", uri=True) as ledger:
            count = int(ledger.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0])
        ledger.close()
        return count
    except sqlite3.OperationalError:
        return 0


@pytest.mark.process
@pytest.mark.parametrize(("cut", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_is_cut_short_goes_on_where_it_stopped(
    tmp_path: Path, cut: signal.Signals, status: int
) -> None:
    job, run = many(tmp_path, 10_000), tmp_path / "run"
    process = subprocess.Popen(
        command("run", job, "--run-dir", run), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while recorded(run) < 500 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(cut)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    if cut is signal.SIGINT:
        assert said.splitlines()[-1] == (
            "surelocal: stopped; what is done is kept: run the same command again to go on"
        )
    before = recorded(run)
    assert 500 <= before < 10_000
    rows = run_rows(job)
    assert [one["id"] for one in rows] == [str(n) for n in range(10_000)]
    assert {one["status"] for one in rows} == {"done"}
