"""Compares a run's local answers with the truth, which the job never read.

python check.py RESULTS.jsonl
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path


def main() -> None:
    with Path(__file__).with_name("truth.csv").open(encoding="utf-8", newline="") as file:
        intents = {row["Ticket No"]: row["intent"] for row in csv.DictReader(file, delimiter=";")}
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
    local = [row for row in rows if row["decided_by"] == "local"]
    wrong = sum(row["value"] != intents[row["id"]] for row in local)
    sys.stdout.write(
        f"{len(local)} local answers, {wrong} of them wrong ({wrong / len(local):.1%})\n"
    )


if __name__ == "__main__":
    main()
