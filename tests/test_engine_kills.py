"""The real engine's process killed while the demo runs: the same results as of a run in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.engine_kills import SOME_WAIT, begin, got, kill_after, results
from tests.jobs import wait_until

pytestmark = pytest.mark.slow
RECORDS = 60


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The results of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "job"
    assert begin(folder, RECORDS).wait(200) == SOME_WAIT
    rows = results(folder)
    assert rows.count(b"\n") == RECORDS
    return rows


def test_the_demos_engine_killed(tmp_path: Path, calm: bytes) -> None:
    chance = random.Random(5)
    killed = tmp_path / "killed"
    # Few at once, so that there is time to kill it.
    run = begin(killed, RECORDS, "--set", "local.window=8")
    victims = kill_after([chance.randrange(5, 30)], killed, run)
    assert len(victims) == 1
    said = (killed / "stderr.txt").read_text()
    assert said.count("its process was killed (SIGKILL)") == 1
    assert "Traceback" not in said
    assert results(killed) == calm


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
    run = begin(killed, RECORDS, "--cluster", *many)
    wait_until(partial(got, 12, killed / "run", run), 200)
    victims = actors_of(run)
    assert victims, (killed / "stderr.txt").read_text()
    os.kill(victims[0], signal.SIGKILL)
    assert run.wait(200) == SOME_WAIT
    said = (killed / "stderr.txt").read_text()
    assert said.count("the engine died (its actor is gone: ") == 1, said
    assert "Traceback" not in said
    assert results(killed) == calm
