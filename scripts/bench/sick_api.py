"""How long the demo's local part takes beside an API that answers 529 to everything, against
without any escalation.

    python scripts/bench/sick_api.py [--rounds 3]

The API is the tests' stand-in, in a process of its own. Each round runs both, one after the other;
the local part is from the first local answer in the ledger to the last.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from runner.ledger.opening import LEDGER

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "configs" / "demo" / "job.yaml"
KEY = "STAND_IN_KEY"
LOCAL = "SELECT COUNT(*), MAX(t.at) - MIN(t.at) FROM trail t JOIN outcomes o USING (position) WHERE"
LOCAL += " t.kind = 'outcome' AND o.decided_by = 'local'"


@contextmanager
def sick_api(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.stand_in", "--bill", str(folder / "bill.jsonl")]
    command += ["--faults", "1:1:529"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def local_part(folder: Path, wanted: int | None, url: str | None) -> tuple[int, float]:
    """(local answers, seconds). Without a ``wanted`` number the run is waited for."""
    run_dir = folder / "run"
    command = [sys.executable, "-m", "runner.cli.main", "run", str(JOB), "--run-dir", str(run_dir)]
    command += ["--set", f"escalation.api_key_env={KEY}"]
    environment = {name: value for name, value in os.environ.items() if name != KEY}
    if url is not None:
        command += ["--set", f"escalation.base_url={url}"]
        environment[KEY] = "any"
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    if wanted is None:
        process.wait()
    else:
        while process.poll() is None and answered(run_dir)[0] < wanted:
            time.sleep(0.5)
        # It would go on trying the API for minutes.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return answered(run_dir)


def answered(run_dir: Path) -> tuple[int, float]:
    path = run_dir / LEDGER
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as ledger:
            count, seconds = ledger.execute(LOCAL).fetchone()
    except sqlite3.Error:  # it is only being made
        return 0, 0.0
    return count, seconds or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    ratios = []
    for _ in range(parser.parse_args().rounds):
        with tempfile.TemporaryDirectory() as alone, tempfile.TemporaryDirectory() as sick:
            count, well = local_part(Path(alone), None, None)
            with sick_api(Path(sick)) as url:
                _, ill = local_part(Path(sick), count, url)
        ratios.append(ill / well)
        print(f"alone {well:.1f} s, beside a sick API {ill:.1f} s, {count:,} local answers")
    print(f"ratio, median of {len(ratios)}: {median(ratios):.3f}")


if __name__ == "__main__":
    main()
