"""`--log-format json`: one object per line on stderr, whatever happens, and no key in any."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from runner import events as logs
from runner.cli.main import main
from runner.observe import display_log
from runner.types import Event, notice
from tests import jobs
from tests.fakes import surelocal, write_job
from tests.jobs import KEY, ROOT, records, wait_until
from tests.scripted import LOCAL
from tests.serving import Echo, body, serving, use, write
from tests.stand_in import StandIn
from tests.test_engine_death import World

JSON = "--log-format=json"
RECORDS = "id,message\n" + "".join(f"{n},hello {n}\n" for n in range(5))


ALWAYS = {"time", "level", "event", "message"}
SOON = {"job", "run_dir"}
"""Once they are known."""


@dataclass(frozen=True)
class Row:
    """What the documents say of an event."""

    level: str
    when: str
    fields: set[str]


@cache
def documented() -> dict[str, Row]:
    text = (ROOT / "docs" / "observability.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|(.*)\|$", text, re.M)
    return {
        name: Row(level, when, set(re.findall(r"`(\w+)`", more)))
        for name, level, when, more in rows
    }


def events(stderr: str) -> list[dict[str, Any]]:
    """Each line of it, which must be an event, and have no field that is not documented."""
    found = [json.loads(line) for line in stderr.splitlines()]
    for one in found:
        assert one.keys() >= ALWAYS, one
        known = documented()[one["event"]].fields | ALWAYS | SOON
        assert one["event"] == "finished" or one.keys() <= known, one.keys() - known
        moment = datetime.fromisoformat(one["time"])
        assert moment.tzinfo == UTC and one["time"].endswith("Z") and one["time"][-5] == "."
        assert one["level"] in ("debug", "info", "warning", "error", "critical")
    return found


def named(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [one for one in found if one["event"] == name]


def told(*arguments: object, status: int = 0) -> tuple[Result, list[dict[str, Any]]]:
    result = surelocal(*arguments)
    assert result.exit_code == status, result.stderr
    return result, events(result.stderr)


# --- a run ----------------------------------------------------------------------------------------


def test_a_run_in_events(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, RECORDS), tmp_path / "run"
    result, found = told("run", job, "--run-dir", run, "--json", "--log-format", "json")
    assert [one["event"] for one in found] == ["started", "progress", "finished"]
    for one in found:
        assert (one["job"], one["run_dir"], one["level"]) == ("small", str(run), "info")
    assert found[0]["total"] == 5
    progress = found[1]
    assert (progress["records"], progress["by"], progress["phase"]) == (
        5, {"template": 5}, "writing",
    )  # fmt: skip
    assert progress["spent_usd"] is None and isinstance(progress["records_per_s"], float)
    summary = json.loads(result.stdout)
    assert {name: found[2][name] for name in summary} == summary
    assert found[2]["exit_status"] == 0 and found[2]["seconds"] >= 0


@pytest.mark.process
def test_progress_comes_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display_log, "EVERY_S", 0.02)
    use(monkeypatch, Echo(pause_s=0.3))
    local = {"model": str(jobs.DEMO_MODEL), "engine": "vllm"}
    job = write_job(tmp_path, RECORDS, routes=[], local=local, answer="text")
    _, found = told(JSON, "run", job, "--run-dir", tmp_path / "run")
    progress = named(found, "progress")
    assert len(progress) > 4 and progress[-1]["records"] == 5


def test_what_is_said_and_what_waits(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key at first; then one, and a provider that refuses it in words that hold it."""
    given = records(["R-1", "R-2"], email="ann@example.org")
    privacy = {"redact": ["email"]}
    job = jobs.write_job(
        tmp_path, api.url, given, privacy=privacy, prompt={"user": "{{ message }} {{ email }}"}
    )
    run = tmp_path / "run"
    result, found = told(JSON, "run", job, "--run-dir", run, status=3)
    [no_key] = named(found, "no_key")
    assert no_key["level"] == "warning" and "ANTHROPIC_API_KEY" in no_key["message"]
    [finished] = named(found, "finished")
    assert (finished["exit_status"], finished["waits_for"]) == (3, {"no_key": 2})
    assert "ann@example.org" not in result.stderr

    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    _, found = told("escalate", run, JSON)
    assert found[0]["total"] == 2
    assert named(found, "progress")[-1]["by"] == {"closed": 2}
    [finished] = named(found, "finished")
    assert finished["spent_usd"] == pytest.approx(float(jobs.spent_usd(run)), abs=1e-9)
    assert "ann@example.org" not in json.dumps(found)


def test_a_key_is_cut_out_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    monkeypatch.setenv("OTHER_TOKEN", f'{KEY}"and more')
    with logs.as_json():
        logs.tell(notice(Event.ERROR, f"401: {KEY} is no key", kind=f"x {KEY}"))
        sys.stderr.write(f'{KEY}"and more\n')
    text = capsys.readouterr().err
    assert KEY not in text and len(events(text)) == 2
    assert "401: [key] is no key" in text and "and more" not in text


@pytest.mark.process
def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    job = write_job(tmp_path, "id,message\n" + "".join(f"{n},{n:0300}\n" for n in range(20_000)))
    command = [sys.executable, "-m", "runner.cli.main", JSON, "run", str(job)]
    with subprocess.Popen(
        [*command, "--run-dir", str(tmp_path / "run")], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        ledger = tmp_path / "run" / "ledger.sqlite"
        wait_until(lambda: ledger.exists() and ledger.stat().st_size > 50_000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    last = events(stderr)[-1]
    assert (process.returncode, last["event"], last["exit_status"]) == (130, "error", 130)
    assert "run the same command again" in last["message"]


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["run", "gone.yaml"], "UsageError", "cannot read the job file gone.yaml"),
        (["run", "JOB", "--limit", "0"], "UsageError", "0 is not in the range x>=1"),
        (["run", "JOB", "--bogus"], "UsageError", "No such option"),
        (["rnu"], "UsageError", "No such command 'rnu'"),
        (["escalate", "gone"], "RunDirError", "gone is not a run directory"),
        (["run", "JOB", "--set", "nmae=x"], "JobError", "did you mean `name`?"),
    ],
)
def test_a_mistake_is_one_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str, said: str
) -> None:
    job = write_job(tmp_path, RECORDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURELOCAL_LOG_FORMAT", "json")
    result, found = told(*(str(job) if a == "JOB" else a for a in arguments), status=2)
    [error] = found
    assert (error["event"], error["level"], error["exit_status"]) == ("error", "error", 2)
    assert error["kind"] == kind and said in error["message"] and result.stdout == ""
    if kind == "JobError":
        assert any("did you mean" in one for one in error["mistakes"])


@pytest.mark.process
def test_a_format_that_there_is_not_is_a_mistake(tmp_path: Path) -> None:
    job = write_job(tmp_path, RECORDS)
    result = surelocal("run", job, "--log-format", "xml")
    assert result.exit_code == 2 and "'xml' is not one of 'text', 'json'" in result.stderr
    code = "import sys; from runner.cli.main import main; main(sys.argv[1:])"
    environment = os.environ | {"SURELOCAL_LOG_FORMAT": "xml"}
    ran = subprocess.run(
        [sys.executable, "-c", code, "validate", str(job)], env=environment, cwd=ROOT, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 2 and "SURELOCAL_LOG_FORMAT" in ran.stderr


def test_the_last_of_two_formats_counts_and_text_stays_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURELOCAL_LOG_FORMAT", "json")
    job = write_job(tmp_path, RECORDS)
    result = surelocal("run", job, "--run-dir", tmp_path / "run", "--log-format", "text")
    assert result.exit_code == 0 and "answered by a template" in result.stderr
    assert not logs.structured()


def test_a_mistake_of_our_own_has_its_traceback_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr("runner.job.file.load_job", broken)
    _, [error] = told(JSON, "validate", write_job(tmp_path, RECORDS), status=1)
    assert error["exit_status"] == 1 and "of our own" in error["message"]
    assert "ZeroDivisionError" in error["traceback"]


# --- what others write ----------------------------------------------------------------------------


@pytest.mark.process
def test_what_an_engine_or_a_library_writes_becomes_events(tmp_path: Path) -> None:
    """In a process of its own: from Python, past Python, and from a child."""
    code = (
        "import logging, os, subprocess, sys, warnings\n"
        "from runner import events as logs\n"
        "with logs.as_json():\n"
        "    print('printed', file=sys.stderr)\n"
        "    warnings.warn('warned')\n"
        "    logging.getLogger('httpx').warning('logged')\n"
        "    os.write(2, b'\\x1b[32m(EngineCore pid=7) WARNING 11-22 [x.py:1] low memory\\n')\n"
        "    os.write(2, b'10%\\r50%\\r100%\\n')\n"
        "    subprocess.run(['sh', '-c', 'echo of a child >&2'])\n"
        "    os.write(2, b'no end of line')\n"
        "sys.stderr.write('after\\n')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    *lines, after = ran.stderr.splitlines()
    assert (ran.returncode, after) == (0, "after")
    found = events("\n".join(lines))
    assert [one["message"] for one in named(found, "notice")] == ["printed"]
    logged = {one["logger"]: one["message"] for one in named(found, "log")}
    assert logged["httpx"] == "logged" and "warned" in logged["py.warnings"]
    engine = [(one["level"], one["message"]) for one in named(found, "engine")]
    assert engine == [
        ("warning", "(EngineCore pid=7) WARNING 11-22 [x.py:1] low memory"),
        ("info", "100%"), ("info", "of a child"), ("info", "no end of line"),
    ]  # fmt: skip


@pytest.mark.process
def test_an_engines_death_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, World(kills=(2, 5)).engine())
    given = records([f"R-{n}" for n in range(9)], "local")
    job = jobs.write_job(tmp_path, "http://127.0.0.1:9", given, local=LOCAL)
    run = ("run", job, "--run-dir", tmp_path / "run", "--set", jobs.NO_KEY)
    _, found = told(JSON, *run)
    deaths = named(found, "engine_died")
    assert [one["level"] for one in deaths] == ["warning"] * 2
    assert all("it is started again" in one["message"] for one in deaths)
    assert named(found, "progress")[-1]["engine_restarts"] == 2


def test_a_library_user_hears_the_same_by_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="surelocal"):
        logs.tell(notice(Event.PROGRESS, "half", records=5))
    [record] = caplog.records
    assert (record.name, record.getMessage()) == ("surelocal", "half")
    assert record.__dict__["fields"] == {"records": 5}


# --- a server -------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_server_tells_of_each_request_by_figures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write(tmp_path, privacy={"redact": ["email"]})
    with logs.as_json(), serving(monkeypatch, job, Echo()) as served:
        own = served.post(body("the secret word"))
        served.post(body("the secret word"), x_record_id="ann@example.org")
        served.post(body("unsure of the secret word"))
        served.post(b"the secret word")
    text = capsys.readouterr().err
    assert [one.event for one in served.notices] == [Event.LOADING, Event.LISTENING]
    assert served.notices[1].fields == {"url": f"{served.url}/v1", "asks_for_key": False}
    assert "secret word" not in text and "ann@" not in text
    first, second, third, fourth = named(events(text), "request")
    assert (first["status_code"], first["decided_by"], first["reason"]) == (
        200,
        "local",
        "confident",
    )
    assert (first["record"], first["record_id"]) == (0, own.json()["surelocal"]["record"])
    assert first["confidence"] == 0.99 and first["cost_usd"] == 0 and first["local_tokens"] == 10
    assert 0 < first["local_s"] < first["seconds"] and first["closed_s"] is None
    assert (second["record"], second["record_id"]) == (1, None)
    assert (third["status_code"], third["level"], third["status"]) == (503, "warning", "review")
    assert (fourth["status_code"], fourth["code"]) == (400, "invalid_json")
    assert "record" not in fourth


def test_every_command_knows_it() -> None:
    for name in ("run", "escalate", "serve", "calibrate", "quote"):
        assert "--log-format" in surelocal(name, "--help").stdout
    assert main.params and "--log-format" in surelocal("--help").stdout
