"""Whatever a run writes is its owner's alone, whatever the umask and whatever was there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner import private
from runner.ledger import open_ledger
from tests.fakes import surelocal
from tests.fakes import write_job as write_plain_job
from tests.jobs import records, run, write_job
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("true_processes")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids="umask {:o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    former = os.umask(request.param)
    yield request.param
    os.umask(former)


def open_to_others(folder: Path) -> dict[str, str]:
    """What in this folder, itself included, is not its owner's alone, and how it is."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            found[str(path.relative_to(folder))] = f"{mode:o}"
    return found


def test_every_file_of_a_run_and_what_is_made_of_it(tmp_path: Path, umask: int) -> None:
    job = write_plain_job(tmp_path, "id,message\na,1\nb,2\n")
    base = tmp_path / "new" / "runs"
    base.parent.mkdir(mode=0o700)
    base.mkdir(mode=0o700)
    run_dir, out = base / "one", base / "out"
    assert surelocal("run", job, "--run-dir", run_dir).exit_code == 0
    assert surelocal("run", job, "--run-dir", run_dir, "-o", out / "r.csv").exit_code == 0
    for name in ("e.jsonl", "e.csv", "e.parquet"):
        assert surelocal("export", run_dir, "-o", out / "deep" / name).exit_code == 0
    for name in ("s.csv", "s.jsonl"):
        made = surelocal("review", "export", run_dir, out / name)
        assert made.exit_code == 0, made.stderr
    assert surelocal("report", run_dir).exit_code == 0
    assert surelocal("report", run_dir, "-o", out / "page.html").exit_code == 0
    assert surelocal("status", run_dir).exit_code == 0
    assert open_to_others(tmp_path / "new") == {}


def test_a_former_run_directory_is_closed_without_a_word(tmp_path: Path) -> None:
    job = write_plain_job(tmp_path, "id,message\na,1\n")
    run_dir = tmp_path / "run"
    assert surelocal("run", job, "--run-dir", run_dir).exit_code == 0
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("not ours")
    elsewhere.chmod(0o644)
    (run_dir / "link").symlink_to(elsewhere)
    for path in (run_dir, *run_dir.iterdir()):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o664)
    again = surelocal("run", job, "--run-dir", run_dir)
    assert again.exit_code == 0 and "chmod" not in again.stderr and "permission" not in again.stderr
    (run_dir / "link").unlink()
    assert open_to_others(run_dir) == {}
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


def test_the_ledgers_own_files_while_it_is_open(tmp_path: Path, umask: int) -> None:
    with open_ledger(tmp_path / "run") as ledger:
        ledger.meta.stopped = "a full disk"
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert "ledger.sqlite-wal" in names and open_to_others(tmp_path / "run") == {}


def test_a_device_keeps_its_mode(tmp_path: Path) -> None:
    before = os.stat("/dev/null").st_mode
    with open("/dev/null", "w", opener=private.opener):
        private.made(Path("/dev/null"))
    assert os.stat("/dev/null").st_mode == before


@pytest.mark.slow
@pytest.mark.parametrize("lane", ["live", "batch"])
def test_paid_calls_leave_nothing_open(
    tmp_path: Path, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-nobody")
    run_dir, spend = tmp_path / "job" / "run", tmp_path / "spending" / "spend.sqlite"
    under_way: list[set[str]] = []

    def oracle(text: str) -> str:
        under_way.append({path.name for path in run_dir.iterdir()})
        seen.update(open_to_others(run_dir))
        return "lost_card"

    seen: dict[str, str] = {}
    former = os.umask(0)
    try:
        with StandIn(tmp_path, oracle=oracle) as api:
            settings = {"lane": lane, "daily_budget_usd": 5, "spend_file": str(spend)}
            settings |= {"batch": {"poll_s": 0.05}} if lane == "batch" else {}
            job = write_job(tmp_path / "job", api.url, records(["R-1", "R-2"]), settings)
            api.batch_seconds = 0
            run(job)
            ran = run(job, again=True) if lane == "batch" else run(job)
            assert ran.summary.unfinished == 0
    finally:
        os.umask(former)
    assert "courier.jsonl" in under_way[-1] or lane == "batch"
    assert seen == open_to_others(run_dir) == open_to_others(spend.parent) == {}
