"""The engine's own process killed while the demo runs, held to the rows of a run in peace.

    python -m tests.engine_kills --records 3000 --kills 5

`test_engine_kills.py` does a small one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import click

from runner.errors import RunDirError
from tests.forks.client import forked_for
from tests.jobs import NO_KEY, ROOT, query, start, wait_until

DEMO = ROOT / "configs" / "demo"
SOME_WAIT = 3
"""The exit status: without a key, some records wait."""


def begin(folder: Path, records: int, *options: str) -> subprocess.Popen[str]:
    folder.mkdir()
    job = folder / "job.yaml"
    text = (DEMO / "job.yaml").read_text("utf-8")
    job.write_text(text.replace("path: records.csv", f'path: "{DEMO / "records.csv"}"'))
    fixed = ["--limit", str(records), "--set", f"local.model={DEMO / 'model'}", "--set", NO_KEY]
    return start(job, *fixed, *options, VLLM_CPU_KVCACHE_SPACE="1")


def results(folder: Path) -> bytes:
    return (folder / "run" / "results.jsonl").read_bytes()


def engine_of(run: subprocess.Popen[str]) -> int | None:
    """The process that `runner.engines.process.child` has started."""
    for forked in forked_for(run.pid):
        if Path(f"/proc/{forked}").exists():
            return forked
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == run.pid and b"runner.engines.process.host" in command:
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


def kill_after(answers: list[int], folder: Path, run: subprocess.Popen[str]) -> set[int]:
    """Kills its engine once there are so many answers, again and again; the killed processes."""
    killed = set[int]()
    for least in answers:
        wait_until(partial(got, least, folder / "run", run), 150)
        victim = engine_of(run)
        assert victim is not None, (folder / "stderr.txt").read_text()
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    assert run.wait(300) == SOME_WAIT
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=3000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    # Fewer answers than records: templates, what a rule escalates, and time for the last kill.
    answers = sorted(chance.sample(range(10, int(given.records * 0.6)), given.kills))
    with tempfile.TemporaryDirectory() as name:
        calm, killed = Path(name) / "calm", Path(name) / "killed"
        assert begin(calm, given.records).wait(600) == SOME_WAIT
        # A smaller window: what is in flight is asked again, and must not be all that there is.
        run = begin(killed, given.records, "--set", "local.window=32")
        victims = kill_after(answers, killed, run)
        same = results(calm) == results(killed)
        click.echo(
            f"engine killed {len(victims)} times, after {answers} answers of {given.records:,}"
        )
        click.echo("the same bytes as undisturbed" if same else "OTHER ROWS than undisturbed")
        raise SystemExit(not same)


if __name__ == "__main__":
    main()
