"""Compares a demo run with the truth that its job never read.

    python scripts/check_demo.py runs/demo-20260101T000000Z

Needs a run without a key: what the closed model has answered no longer holds the local answer.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runner.ledger import read_ledger

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
        rows = ledger.query(
            "SELECT o.position, o.confidence, o.decided_by, o.value, h.answer FROM outcomes o "
            "LEFT JOIN held h USING (position) WHERE o.confidence IS NOT NULL ORDER BY o.position"
        )
    judged = []
    for position, confidence, decided_by, value, answer in rows:
        if answer is None and decided_by != "local":
            raise SystemExit(f"{run_dir} was run with a key; this needs a run without one")
        truth = truths[position]
        local = json.loads(value) if decided_by == "local" else json.loads(answer)["value"]
        right = isinstance(local, dict) and local.get("intent") == truth["intent"]
        judged.append(Judged(confidence, decided_by == "local", right, truth["in_scope"] == "true"))
    return judged


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
