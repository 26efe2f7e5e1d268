"""What a million records take: records per second, memory, and what is done with them after.

    python scripts/bench/scale.py [--records 1000000] [--folder DIR]

Two jobs, CSV and JSONL each, first over 10,000 records and then over all, each step in a process
of its own by the command line: ``templates`` (read → route → record: rules answer all of them) and
``scripted`` (a local model that answers at once; of its answers one in ten is unsure and waits).
Then the finished run is resumed, its status asked for and its rows exported. CPU seconds are those
of the step's process: they hold on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FEW = 10_000
WINDOW = 256
KINDS = ("templates", "scripted")
FORMATS = ("csv", "jsonl")
ASKS = ("where is my card", "my card was declined", "I lost it in a shop", "I want my money back")
INTENTS = ("card_arrival", "card_declined", "lost_card", "refund")


def rows(count: int, kind: str) -> Iterator[dict[str, str]]:
    """Short records, each with a message of its own; with ``scripted`` one in ten by rule. Their
    ids are in no order, which is the harder case for an index."""
    for n in range(count):
        birthday = kind == "templates" or n % 10 == 0
        yield {
            "ticket_id": f"T-{n * 2654435761 % 2**32:08x}",
            "kind": "birthday" if birthday else "question",
            "first_name": ("Ann", "Bo", "Cem", "Dora")[n % 4],
            "region": "EU" if n % 3 else "US",
            "message": f"{ASKS[n // 10 % 4]}, order {n * 7919 % 1_000_003}",
        }


def write_records(path: Path, count: int, kind: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for n, one in enumerate(rows(count, kind)):
            if path.suffix == ".jsonl":
                file.write(json.dumps(one) + "\n")
                continue
            if n == 0:
                file.write(",".join(one) + "\n")
            file.write(",".join(f'"{v}"' if "," in v else v for v in one.values()) + "\n")


def job(records: Path, kind: str) -> dict[str, Any]:
    """JSON is YAML too."""
    answer = {"type": "object", "properties": {"intent": {"enum": [*INTENTS]}}}
    given: dict[str, Any] = {
        "name": "scale",
        "records": {"path": records.name, "id": "ticket_id"},
        "prompt": {"system": "Answer with the intent as JSON.", "user": "{{ message }}"},
        "answer": {"schema": answer | {"required": ["intent"], "additionalProperties": False}},
        "local": {"model": str(ROOT / "configs" / "demo" / "model")},
        "routes": [
            {"when": "'lawyer' in message", "to": "closed", "reason": "legal"},
            {"when": "kind == 'birthday'", "to": "template", "answer": "Hello, {{ first_name }}!"},
        ],
        "confidence": {"threshold": 0.9},
    }
    if kind == "scripted":
        closed = {"provider": "anthropic", "model": "claude-sonnet-5-5", "budget_usd": 5}
        given["escalation"] = closed | {"api_key_env": "NOBODY_HAS_THIS_KEY"}
    return given


class Scripted:
    """A local model that answers at once: every tenth question it is unsure of. Its answers lie
    ready, since what it takes to make them is no part of ours."""

    window = WINDOW

    def __init__(self) -> None:
        from runner.types import Completion, Usage

        self._ready: dict[tuple[str, bool], Completion] = {}
        for ask, intent in zip(ASKS, INTENTS, strict=True):
            tokens = ('{"intent": ', f'"{intent}"', "}")
            for sure, logprob in ((True, -0.01), (False, -2.0)):
                self._ready[ask, sure] = Completion(
                    "".join(tokens), "scripted", "stop", tokens, (0.0, logprob, 0.0), Usage(40, 3)
                )

    async def generate(self, prompt: Any, sampling: Any) -> Any:
        message = prompt.messages[-1].content
        return self._ready[message.partition(",")[0], not message.endswith("7")]

    async def aclose(self) -> None:
        return None


def one(arguments: list[str]) -> dict[str, Any]:
    """One command of `surelocal` in this process, and what it took."""
    from runner.cli.main import main as surelocal
    from runner.pipeline import assemble

    assemble.engine = lambda job: Scripted()
    began, cpu = time.monotonic(), time.process_time()
    try:
        surelocal(arguments, standalone_mode=False)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return {
        "status": status,
        "s": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "mb": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory that this process has had. Linux's `ru_maxrss` begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) / 1e3


def measure(*arguments: object) -> dict[str, Any]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps([str(a) for a in arguments])],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def told(what: str, found: dict[str, Any], count: int | None = None) -> None:
    line = f"  {what:<22}{found['s']:8.1f} s {found['cpu_s']:8.1f} s CPU {found['mb']:6.0f} MB"
    if count:
        line += f" {count / found['s']:10,.0f} records/s {1e6 * found['cpu_s'] / count:6.1f} µs CPU"
    print(line, flush=True)


def run(folder: Path, count: int, kind: str, ending: str) -> dict[str, Any]:
    """A run over so many records; leaves its run directory."""
    records = folder / f"records.{ending}"
    write_records(records, count, kind)
    job_file = folder / "job.yaml"
    job_file.write_text(json.dumps(job(records, kind)), encoding="utf-8")
    return measure("run", job_file, "--run-dir", folder / "run")


def after(folder: Path, count: int) -> None:
    """What is done with a finished run."""
    run_dir = folder / "run"
    told("again: resumed", measure("run", folder / "job.yaml", "--run-dir", run_dir), count)
    told("status", measure("status", run_dir))
    for ending in ("jsonl", "parquet"):
        path = folder / f"results.{ending}"
        told(f"export to {ending}", measure("export", run_dir, "-o", path), count)
    size = (run_dir / "ledger.sqlite").stat().st_size
    print(f"  the ledger: {size / 1e6:,.0f} MB, {size / count:.0f} bytes a record", flush=True)


def compared(kind: str, ending: str, many: int, place: Path | None) -> None:
    """Few records, then all: the growth of memory between them."""
    peaks = []
    for count in (FEW, many):
        with tempfile.TemporaryDirectory(dir=place) as name:
            found = run(Path(name), count, kind, ending)
            told(f"{kind}, {ending}, {count:,}", found, count)
            peaks.append(found["mb"])
            if count == many:
                after(Path(name), count)
    print(f"  memory: {peaks[1] - peaks[0]:+.0f} MB from {FEW:,} records to {many:,}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are for the time being")
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--format", choices=FORMATS, action="append")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(json.loads(options.one))))
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    for kind in options.only or KINDS:
        for ending in options.format or FORMATS:
            compared(kind, ending, options.records, options.folder)


if __name__ == "__main__":
    main()
