"""surelocal: a whole run, from the loaded engine to the written results and the closed engine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engines.meter import Meter, Took
from engines.work import DEMO, Work
from runner.pipeline.loop import Progress
from runner.pipeline.run import RunRequest, run_job

TARGET = 0.05


class Watched(Progress):
    """Starts the meter the moment the engine is there."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        if name == "generating_since" and value is not None:
            self.meter.start()
        super().__setattr__(name, value)


def ours(work: Work, *, looks: str | None = None) -> Took:
    """``looks``: of a certified job, calibrated before; without, the demo's own threshold."""
    job = work.job(() if looks is None else (certified(work.made, looks),))
    meter = Meter()
    progress = Watched(meter)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        request = RunRequest(job, run_dir, run_dir / "results.jsonl", work.limit)
        run_job(request, progress, lambda text: None)
        meter.stop()
    looked = f"{progress.looked:,} looked at" if looks not in (None, "{}") else ""
    return meter.took(progress.generated_tokens, looked)


def certified(folder: Path, looks: str) -> str:
    """The override that makes the demo a certified job with these looks."""
    name = "".join(c for c in looks if c.isalnum()) or "none"
    rule = f"target_error: {TARGET}, calibration: {folder / name}.json, looks: {looks}"
    return f"confidence={{{rule}}}"


def calibrate(folder: Path, looks: str) -> float:
    """Seconds that `surelocal calibrate` takes with these looks, its loading included."""
    began = time.monotonic()
    command = [sys.executable, "-m", "runner.cli.main", "calibrate", str(DEMO / "job.yaml")]
    command += ["--labels", str(DEMO / "labels.csv"), "--set", certified(folder, looks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"surelocal calibrate: {done.stderr.strip()}")
    return time.monotonic() - began
