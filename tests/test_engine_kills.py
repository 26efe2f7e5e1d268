"""The real engine's process killed while the demo runs: the same results as of a run in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from runner.errors import RunDirError
from tests.jobs import NO_KEY, ROOT, query, start, wait_until

pytestmark = pytest.mark.slow
DEMO = ROOT / "configs" / "demo"


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir()
    job = folder / "job.yaml"
    text = (DEMO / "job.yaml").read_text("utf-8")
    job.write_text(text.replace("path: records.csv", f'path: "{DEMO / "records.csv"}"'))
    fixed = ["--limit", "300", "--set", f"local.model={DEMO / 'model'}", "--set", NO_KEY]
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


def test_the_demos_engine_killed_twice(tmp_path: Path) -> None:
    chance = random.Random(5)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    # Few at once, so that there is time to kill it.
    run, killed_pids = begin(killed, "--set", "local.window=8"), set[int]()
    for least in (chance.randrange(10, 80), chance.randrange(120, 200)):
        wait_until(lambda least=least: answered(killed / "run") >= least or run.poll(), 150)
        victim = engine_of(run)
        assert victim is not None, (killed / "stderr.txt").read_text()
        os.kill(victim, signal.SIGKILL)
        killed_pids.add(victim)
    undisturbed = begin(calm)
    assert run.wait(150) == 3  # some records wait for a key
    assert undisturbed.wait(150) == 3
    assert len(killed_pids) == 2
    said = (killed / "stderr.txt").read_text()
    assert said.count("its process was killed (SIGKILL)") == 2
    assert "Traceback" not in said
    of_killed, of_calm = ((each / "run" / "results.jsonl").read_bytes() for each in (killed, calm))
    assert of_killed == of_calm
    assert of_calm.count(b"\n") == 300
