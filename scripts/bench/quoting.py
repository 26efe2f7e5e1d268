"""Does a quote's interval hold the truth? Random pilots drawn out of a whole run of the demo.

    python scripts/bench/quoting.py [--draws 1000] [--pilot 200] [--run-dir DIR]

The demo's 3,000 records are run once, each escalated one answered by the tests' stand-in for
Claude's API, which bills as the API does, prompt cache included. Then pilots are drawn out of what
came of them and quoted by the quote's own estimators. The truth is the run's own estimate over all
records (nothing cached), and beside it the stand-in's bill. ``--run-dir``: a run that is there.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from runner.job import Job
from runner.job.file import load_job
from runner.ledger import read_ledger
from runner.pipeline import assemble
from runner.pipeline.loop import Progress
from runner.pipeline.run import RunRequest, job_of, run_job
from runner.quote.counts import counted
from runner.quote.intervals import Range, count_in
from runner.quote.money import caching, ways
from runner.quote.pilot import Pilot, Seen, Why
from runner.types import DecidedBy, Status

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
KEY = "STAND_IN_KEY"
SHORTEST = 9  # of a message by which the stand-in knows a record


@dataclass(frozen=True, slots=True)
class Whole:
    """What came of every record, and what was paid for them; 0 where nothing was sent."""

    job: Job
    seen: list[Seen]
    billed: Decimal


@dataclass(slots=True)
class Score:
    truth: float
    held: int = 0
    halves: list[float] = field(default_factory=list)

    def count(self, found: Range) -> None:
        self.held += found.holds(self.truth)
        self.halves.append((found.high - found.low) / 2)


def answers() -> dict[str, dict[str, str]]:
    """Message → the right answer, of the demo's in-scope records."""
    with (DEMO / "truth.csv").open(encoding="utf-8", errors="replace") as file:
        rows = {row["ticket_id"]: row for row in csv.DictReader(file)}
    found = {}
    with (DEMO / "records.csv").open(encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            truth, message = rows.get(row["ticket_id"], {}), row["message"] or ""
            if truth.get("in_scope") == "true" and len(message) >= SHORTEST:
                found[message] = {name: truth[name] for name in ("intent", "domain")}
    return found


@contextmanager
def a_run() -> Iterator[Path]:
    """The demo's, with the stand-in for the closed model."""
    from tests.stand_in import StandIn

    os.environ[KEY] = "no key at all"
    with tempfile.TemporaryDirectory() as folder, StandIn(Path(folder), oracle=answers()) as api:
        overrides = (f'escalation.base_url="{api.url}"', f"escalation.api_key_env={KEY}")
        job, run_dir = load_job(DEMO / "job.yaml", overrides).job, Path(folder) / "run"
        run_job(RunRequest(job, run_dir, run_dir / "results.jsonl"), Progress(), print)
        yield run_dir


def whole(run_dir: Path) -> Whole:
    with read_ledger(run_dir) as ledger:
        seen = []
        for one in ledger.outcomes():
            closed = one.status is Status.WAITING or one.decided_by is DecidedBy.CLOSED
            scored = one.confidence is not None
            why: Why = "" if not closed else "confidence" if scored else "rule"
            end: Any = "closed" if closed else str(one.decided_by or one.status)
            seen.append(Seen(end, why, one.closed_estimate))
        return Whole(job_of(run_dir, ledger), seen, ledger.attempts.committed_usd())


def ranges(all_: Whole) -> Callable[[list[Seen]], Mapping[str, Range]]:
    """What a pilot of these records states, by name."""
    size, closed = len(all_.seen), assemble.closed_side(all_.job)
    cache = caching(closed, islice(assemble.records(all_.job), 50))

    def stated(seen: list[Seen]) -> dict[str, Range]:
        pilot = Pilot(seen, size, 0.0, 0.0, 1, True)
        found = {one.words.lstrip("– "): one.of_all for one in counted(pilot)}
        for one in ways(seen, size, closed, cache):
            found[f"{one.name}, USD"] = one.plain
            if one.cached is not None:
                found[f"{one.name}, cached, USD"] = one.cached
        return found

    return stated


def truths(all_: Whole) -> dict[str, float]:
    def usd(seen: list[Seen]) -> float:
        return float(sum(one.usd for one in seen))

    def count(why: str) -> int:
        return sum(one.escalated == why for one in all_.seen)

    escalated = [one for one in all_.seen if one.escalated]
    found = {
        "escalated": len(escalated),
        "by a rule": count("rule"),
        "by the confidence": count("confidence"),
        "answered by a template": sum(one.end == "template" for one in all_.seen),
        "in error": sum(one.end == "error" for one in all_.seen),
        "All closed, live, USD": usd(all_.seen),
        "Hybrid, live, USD": usd(escalated),
    }
    billed = {"Hybrid, live, cached, USD": float(all_.billed)} if all_.billed else {}
    return {**found, **billed}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--pilot", type=int, default=200)
    parser.add_argument("--run-dir", type=Path)
    options = parser.parse_args()
    if options.run_dir is not None:
        all_ = whole(options.run_dir)
    else:
        with a_run() as run_dir:
            all_ = whole(run_dir)
    stated = ranges(all_)
    scores = {name: Score(truth) for name, truth in truths(all_).items()}
    for number in range(options.draws):
        random = np.random.default_rng(number)
        places = random.choice(len(all_.seen), options.pilot, replace=False)
        found = stated([all_.seen[place] for place in places])
        for name, score in scores.items():
            # What a pilot has none of is not in its words.
            score.count(found.get(name) or count_in(len(all_.seen), options.pilot, 0))
    print(f"| of {len(all_.seen):,} records | truth | held | interval, ± |\n|---|---|---|---|")
    for name, score in scores.items():
        share, half = score.held / options.draws, float(np.mean(score.halves))
        amount = f"{score.truth:,.4f}" if name.endswith("USD") else f"{score.truth:,.0f}"
        print(f"| {name} | {amount} | {share:.1%} | {half / score.truth:.0%} |")


if __name__ == "__main__":
    main()
