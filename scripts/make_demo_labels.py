"""Writes people's labels for a random sample of the demo's records, as a customer would have them.

    python scripts/make_demo_labels.py [--labels 1000] [--seed 8] [--output configs/demo/labels.csv]

Drawn from the records that reach the local model; a question that is none of the 150 intents has
empty cells: no possible answer is right.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "configs" / "demo"
FIELDS = ("intent", "domain")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--output", type=Path, default=DEMO / "labels.csv")
    options = parser.parse_args()
    with (DEMO / "truth.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["expected_route"] == "local"]
    sample = random.Random(options.seed).sample(rows, options.labels)
    with options.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("ticket_id", *FIELDS))
        for row in sorted(sample, key=lambda r: int(r["line"])):
            inside = row["in_scope"] == "true"
            writer.writerow((row["ticket_id"], *(row[f] if inside else "" for f in FIELDS)))
    print(f"{options.labels:,} labels in {options.output}")


if __name__ == "__main__":
    main()
