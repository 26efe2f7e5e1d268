"""Compares a demo run with the truth that its job never read.

    python scripts/check_demo.py runs/demo-20260101T000000Z

Needs a run without a key: what the closed model has answered no longer holds the local answer.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.ledger import Ledger, read_ledger
from runner.types import DecidedBy, Outcome

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo"
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True, slots=True)
class Judged:
    """One record that the local model was asked about."""

    confidence: float
    accepted: bool
    right: bool
    in_scope: bool


def judge(run_dir: Path) -> list[Judged]:
    """The local model's answers against the truth, in input order."""
    with (DEMO / "truth.csv").open(encoding="utf-8", newline="") as file:
        truths = list(csv.DictReader(file))
    with read_ledger(run_dir) as ledger:
        return [
            _judged(ledger, outcome, outcome.confidence, truths[outcome.position])
            for outcome in ledger.outcomes()
            if outcome.confidence is not None
        ]


def _judged(
    ledger: Ledger, outcome: Outcome, confidence: float, truth: Mapping[str, str]
) -> Judged:
    accepted, local = outcome.decided_by is DecidedBy.LOCAL, outcome.value
    if not accepted:
        kept = ledger.reading.undone(outcome.position).local
        if not kept:
            raise SystemExit(f"{ledger.folder} was run with a key; this needs a run without one")
        local = kept["value"]
    right = isinstance(local, dict) and local.get("intent") == truth["intent"]
    return Judged(confidence, accepted, right, truth["in_scope"] == "true")


def report(judged: list[Judged]) -> list[str]:
    """What the README shows, line by line."""
    inside = sorted((j for j in judged if j.in_scope), key=lambda j: -j.confidence)
    outside = [j for j in judged if not j.in_scope]
    lines = ["| in-scope answers kept, most confident first | right |", "|---|---|"]
    for coverage in COVERAGES:
        kept = inside[: round(len(inside) * coverage)]
        lines.append(f"| {coverage:.0%} ({len(kept):,}) | {_share(j.right for j in kept)} |")
    accepted = [j for j in inside if j.accepted]
    local = [j for j in judged if j.accepted]
    lines += [
        f"| at the job's threshold: {len(accepted) / len(inside):.1%} ({len(accepted):,}) "
        f"| {_share(j.right for j in accepted)} |",
        "",
        f"Of {len(outside):,} out-of-scope messages, {sum(j.accepted for j in outside):,} "
        f"({_share(j.accepted for j in outside)}) were accepted.",
        f"Of {len(local):,} accepted local answers, {sum(not j.right for j in local):,} "
        f"({_share(not j.right for j in local)}) were wrong.",
    ]
    return lines


def _share(flags: Iterable[bool]) -> str:
    values = list(flags)
    return f"{sum(values) / len(values):.1%}" if values else "none"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    print("\n".join(report(judge(parser.parse_args().run_dir))))


if __name__ == "__main__":
    main()
