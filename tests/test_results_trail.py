"""`status --verify` covers the results file: changed, cut, gone, or older than the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import open_ledger
from runner.pipeline.run import job_of
from runner.results import deliver
from runner.results.kept import Noting
from runner.types import DecidedBy, Outcome, Status
from tests.fakes import surelocal, write_job

ROWS = "id,message\n" + "".join(f"T-{n},text {n}\n" for n in range(20))
FORMATS = ("jsonl", "csv", "parquet")


@pytest.fixture(params=FORMATS)
def ran(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    job = write_job(tmp_path, ROWS, output={"format": request.param})
    result = surelocal("run", job, "--run-dir", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    [path] = (tmp_path / "run").glob("results.*")
    return path


def verified(path: Path) -> dict[str, Any]:
    result = surelocal("status", path.parent, "--verify", "--json")
    told: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if told["whole"] else 1)
    return told


def one_byte(data: bytes) -> bytes:
    at = data.index(b"text 7" if b"text 7" in data else b"text") + 5
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def row_out(data: bytes) -> bytes:
    lines = data.split(b"\n")
    return b"\n".join(lines[:5] + lines[6:])


def row_in(data: bytes) -> bytes:
    return data + data.split(b"\n")[5] + b"\n"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def emptied(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("change", [one_byte, row_out, row_in, cut, emptied])
def test_a_changed_file_is_found(ran: Path, change: Callable[[bytes], bytes]) -> None:
    assert verified(ran) | {"head": ""} == {
        "whole": True, "entries": verified(ran)["entries"], "head": "", "problem": None,
        "notes": [],
    }  # fmt: skip
    data = ran.read_bytes()
    ran.write_bytes(change(data))
    problem = verified(ran)["problem"]
    assert f"the results file {ran} was changed" in problem
    assert ran.suffix == ".parquet" or "line " in problem
    if change is one_byte and ran.suffix == ".jsonl":
        assert problem.endswith("line 8 is not what the ledger has")
    ran.write_bytes(data)
    assert verified(ran)["whole"]


def test_a_file_that_is_gone_is_missed_until_it_is_written_again(ran: Path) -> None:
    job = ran.parent.parent / "job.yaml"
    ran.unlink()
    assert "No such file" in verified(ran)["problem"]
    elsewhere = ran.parent.parent / "elsewhere.csv"
    options = ["--set", "output.format=auto", "-o", elsewhere]
    assert surelocal("run", job, "--run-dir", ran.parent, *options).exit_code == 0
    assert verified(ran)["whole"]  # it has another name now
    elsewhere.write_bytes(elsewhere.read_bytes()[:-1])
    assert str(elsewhere) in verified(ran)["problem"]


def test_a_moved_run_directory_is_whole(ran: Path) -> None:
    there = ran.parent.rename(ran.parent.with_name("moved"))
    assert verified(there / ran.name)["whole"]


def change_an_outcome(run_dir: Path) -> None:
    with open_ledger(run_dir) as ledger:
        ledger.change(Outcome(3, "T-3", Status.DONE, "another", DecidedBy.HUMAN))


def test_a_file_older_than_the_ledger_is_no_lie(ran: Path) -> None:
    change_an_outcome(ran.parent)
    told = verified(ran)
    assert told["whole"] and "was written before the last change; run again" in told["notes"][0]
    with open_ledger(ran.parent) as ledger:
        deliver(ledger, job_of(ran.parent, ledger), ran)
    assert verified(ran)["notes"] == []
    ran.write_bytes(cut(ran.read_bytes()))
    assert not verified(ran)["whole"]


@pytest.mark.parametrize("at", ["before the note", "after the note", "after the file"])
def test_killed_between_the_note_and_the_file(
    ran: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    begin = Noting.begin
    change_an_outcome(ran.parent)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if at == "before the note":
            patch.setattr(Noting, "begin", kill)
        elif at == "after the note":
            patch.setattr(Noting, "begin", lambda *given: (begin(*given), kill()))
        else:
            patch.setattr(Noting, "done", kill)
        with open_ledger(ran.parent) as ledger:
            deliver(ledger, job_of(ran.parent, ledger), ran)
    told = verified(ran)
    assert told["whole"] and len(told["notes"]) == (at != "after the file")
    ran.write_bytes(cut(ran.read_bytes()))
    assert not verified(ran)["whole"]


def test_an_export_over_it_and_a_device_are_fine(ran: Path) -> None:
    job = ran.parent.parent / "job.yaml"
    assert surelocal("export", ran.parent, "-o", ran).exit_code == 0
    assert verified(ran)["whole"]
    devnull = ["--set", "output.format=jsonl", "-o", "/dev/null"]
    assert surelocal("run", job, "--run-dir", ran.parent, *devnull).exit_code == 0
    assert verified(ran)["whole"]
