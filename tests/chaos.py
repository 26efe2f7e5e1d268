"""Escalation under every fault at once, killed again and again, and its books held to the bill.

    python -m tests.chaos --records 2000 --kills 50

`test_chaos.py` does a small one. The lanes take turns; the last starts wait for all.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from runner.ledger import read_ledger
from runner.ledger.money import from_pico
from tests.jobs import KEY, ROOT, query, records, rows_of, write_job
from tests.stand_in import FATES, ROW_FAULTS, STEADY, STEADY_BATCH, StandIn

CAP = Decimal(25)
PROVIDERS: dict[str, dict[str, Any]] = {
    "anthropic": {},
    "openai": {"provider": "openai", "model": "gpt-6.1-sol", "api_key_env": "OPENAI_API_KEY"},
}
CALLS = ("create", "retrieve", "list")
ENDPOINTS = {
    "anthropic": ("messages", [f"batch_{call}" for call in CALLS], "batch_results"),
    "openai": (
        "chat",
        ["file_create", *(f"chat_batch_{call}" for call in CALLS)],
        "file_content",
    ),
}
MOST_STARTS = 40
"""After the last kill: what a fault has halted is gone on with by the same command."""


@dataclass(frozen=True, slots=True)
class Books:
    """What a chaos came to. ``bill``: what the stand-in billed, ``exact``: what it billed for
    records of which no reply was lost and none refused, and ``settled`` what the ledger has for
    those."""

    statuses: Counter[str]
    states: Counter[str]
    lanes: Counter[str]
    kills: int
    spent: Decimal
    bill: Decimal
    exact: Decimal
    settled: Decimal
    twice: list[str]
    """Records that were billed twice though no reply to them was lost."""
    trail: str | None


def play(folder: Path, count: int, kills: int, provider: str, seed: int) -> Books:
    chance = random.Random(f"{seed}{provider}")
    names = [f"R-{n}" for n in range(count)]
    with StandIn(folder, oracle=lambda text: "lost_card", latency=0.1) as api:
        trouble(api, provider, seed)
        path = "/v1" if provider == "openai" else ""
        job = write_job(folder / "job", api.url + path, records(names), settings(provider, count))
        killed = starts = 0
        while killed < kills:
            # A part of the records at each start, so that every kill meets new work.
            limit = min(count * 3 // 5, count * (starts + 1) // (kills + 2))
            process = begun(job, "run", ["live", "batch"][starts % 2], "--limit", str(limit))
            killed += ends_by_kill(process, chance.uniform(1.0, 4.0))
            starts += 1
        begun(job, "run", "live", "--limit", str(count * 4 // 5)).wait()
        begun(job, "run", "batch").wait()
        for _ in range(MOST_STARTS):
            begun(job, "escalate", "batch").wait()
            if not open_ends(job.parent / "run"):
                break
        api.wait_idle()
        return books(job.parent / "run", api, killed)


def settings(provider: str, count: int) -> dict[str, Any]:
    return {
        **PROVIDERS[provider],
        "budget_usd": str(CAP),
        "concurrency": 4,
        "timeout_s": 2,
        "max_attempts": 6,
        "retry_for_s": 20,
        "batch": {"max_requests": max(10, count // 20), "poll_s": 0.2, "listed_within_s": 4},
    }


def trouble(api: StandIn, provider: str, seed: int) -> None:
    """Every fault there is, at random."""
    live, calls, results = ENDPOINTS[provider]
    quick = {"seconds": 2.5, "retry_after": 0.2}
    api.faults.mix(seed, 0.2, STEADY, endpoint=live, **quick)
    for endpoint in calls:
        api.faults.mix(seed, 0.3, STEADY_BATCH, endpoint=endpoint, **quick)
    api.faults.mix(seed, 0.5, (*ROW_FAULTS, *STEADY_BATCH), endpoint=results, **quick)
    api.faults.mix(seed, 0.2, FATES, endpoint="part")
    api.batches.seconds = 0.5
    api.batches.list_lag_s = 0.5
    api.batches.push("expire")


def begun(job: Path, command: str, lane: str, *options: str) -> subprocess.Popen[bytes]:
    run_dir = job.parent / "run"
    order = ["run", str(job), "--run-dir", str(run_dir), "--set", f"escalation.lane={lane}"]
    if command == "escalate":  # in the lane of the last run
        order = ["escalate", str(run_dir), "--wait"]
    keys = {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY}
    with (job.parent / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "runner.cli.main", *order, *options],
            cwd=ROOT,
            env=os.environ | keys,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


def ends_by_kill(process: subprocess.Popen[bytes], after_s: float) -> bool:
    """Whether it was still at work then."""
    time.sleep(after_s)
    at_work = process.poll() is None
    if at_work:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at_work


def open_ends(run_dir: Path) -> int:
    rows = query(run_dir, "SELECT COUNT(*) FROM outcomes WHERE status='waiting'")
    return int(rows[0][0])


def books(run_dir: Path, api: StandIn, kills: int) -> Books:
    attempts = query(run_dir, "SELECT record_id, state, COALESCE(cost, reserved) FROM attempts")
    unsure = {name for name, state, _ in attempts if state in ("unknown", "reserved")}
    sent = [(name_in(r.raw), r) for r in api.bill.requests(None)]
    billed = Counter(name for name, r in sent if name and r.usd)
    # A refusal before any output is not billed, though its usage says so: we cannot know.
    free = {name for name, r in sent if r.fault == "refusal" and not r.usd}
    told = {name for name, _ in sent} - unsure - free
    exact = sum((r.usd for name, r in sent if name in told), Decimal(0))
    settled = sum((from_pico(cost) for name, _, cost in attempts if name in told), Decimal(0))
    with read_ledger(run_dir) as ledger:
        spent, proof = ledger.attempts.committed_usd(), ledger.prove()
    lanes = query(run_dir, "SELECT batch IS NOT NULL FROM attempts WHERE state='settled'")
    return Books(
        Counter(row["status"] for row in rows_of(run_dir).values()),
        Counter(state for _, state, _ in attempts),
        Counter("batch" if batch else "live" for (batch,) in lanes),
        kills,
        spent,
        api.bill.total_usd(),
        exact,
        settled,
        [name for name, times in billed.items() if times > 1 and name not in unsure],
        proof.problem,
    )


def name_in(raw: str) -> str | None:
    _, found, rest = raw.partition("<R-")
    return f"R-{rest.partition('>')[0]}" if found else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--provider", choices=PROVIDERS, default="anthropic")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = play(Path(folder), given.records, given.kills, given.provider, given.seed)
        sys.stdout.write(f"{found}\n{time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
