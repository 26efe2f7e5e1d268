"""The real engine's process killed while the demo runs: the same results as of a run in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from runner.errors import RunDirError
from tests.jobs import NO_KEY, ROOT, query, start, wait_until

pytestmark = pytest.mark.slow
DEMO = ROOT / "configs" / "demo"
RECORDS = 150


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir()
    job = folder / "job.yaml"
    text = (DEMO / "job.yaml").read_text("utf-8")
    job.write_text(text.replace("path: records.csv", f'path: "{DEMO / "records.csv"}"'))
    fixed = ["--limit", str(RECORDS), "--set", f"local.model={DEMO / 'model'}", "--set", NO_KEY]
    return start(job, *fixed, *options, VLLM_CPU_KVCACHE_SPACE="1")


def engine_of(run: subprocess.Popen[str]) -> int | None:
    """The process that `runner.engines.child` has started."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == run.pid and b"runner.engines.host" in command:
            return int(status.parent.name)
    return None


def answered(run_dir: Path) -> int:
    sql = "SELECT COUNT(*) FROM outcomes WHERE decided_by = 'local' OR status = 'waiting'"
    try:
        [(count,)] = query(run_dir, sql)
    except RunDirError:  # it has only begun
        return 0
    return int(count)


def got(least: int, run_dir: Path, run: subprocess.Popen[str]) -> bool:
    return answered(run_dir) >= least or run.poll() is not None


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The results of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "job"
    assert begin(folder).wait(200) == 3  # some records wait for a key
    rows = (folder / "run" / "results.jsonl").read_bytes()
    assert rows.count(b"\n") == RECORDS
    return rows


def test_the_demos_engine_killed_twice(tmp_path: Path, calm: bytes) -> None:
    chance = random.Random(5)
    killed = tmp_path / "killed"
    # Few at once, so that there is time to kill it.
    run, killed_pids = begin(killed, "--set", "local.window=8"), set[int]()
    for least in (chance.randrange(10, 40), chance.randrange(60, 100)):
        wait_until(partial(got, least, killed / "run", run), 150)
        victim = engine_of(run)
        assert victim is not None, (killed / "stderr.txt").read_text()
        os.kill(victim, signal.SIGKILL)
        killed_pids.add(victim)
    assert run.wait(150) == 3
    assert len(killed_pids) == 2
    said = (killed / "stderr.txt").read_text()
    assert said.count("its process was killed (SIGKILL)") == 2
    assert "Traceback" not in said
    assert (killed / "run" / "results.jsonl").read_bytes() == calm


def actors_of(run: subprocess.Popen[str]) -> list[int]:
    """The replicas' actors: children of Ray's own process, which is the run's child."""
    parents, found = {}, []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(status.parent.name), status.read_text().rpartition(")")[2].split()[1]
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        parents[pid] = int(parent)
        if command.startswith(b"ray::Hosted"):
            found.append(pid)
    return sorted(pid for pid in found if parents.get(parents[pid]) == run.pid)


def test_two_replicas_one_killed_give_the_bytes_of_one_process(tmp_path: Path, calm: bytes) -> None:
    pytest.importorskip("ray")
    killed = tmp_path / "killed"
    # Few at once, so that there is time to kill it.
    many = ("--set", "cluster={replicas: 2, address: local}", "--set", "local.window=4")
    run = begin(killed, "--cluster", *many)
    wait_until(partial(got, 25, killed / "run", run), 200)
    victims = actors_of(run)
    assert victims, (killed / "stderr.txt").read_text()
    os.kill(victims[0], signal.SIGKILL)
    assert run.wait(200) == 3  # some records wait for a key
    said = (killed / "stderr.txt").read_text()
    assert said.count("the engine died (its actor is gone: ") == 1, said
    assert "Traceback" not in said
    assert (killed / "run" / "results.jsonl").read_bytes() == calm
