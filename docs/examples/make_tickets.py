"""Makes the tutorial's export and its truth from the demo's records, always with the same bytes.

    python docs/examples/make_tickets.py

The questions are from CLINC150 (see ../../configs/demo/clinc150/README.md), the customers invented.
"""

from __future__ import annotations

import csv
import random
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "configs" / "demo"
# The export's columns, and where the demo's records have them.
COLUMNS = {
    "Ticket No": "ticket_id", "Type": "kind", "Opened": "created_at", "First name": "first_name",
    "Last name": "last_name", "E-mail": "email", "Phone": "phone", "Region": "region",
    "Plan": "plan", "Subject area": "topic", "Customer message": "message",
}  # fmt: skip
CARDS = ("banking", "credit_cards")
OUT_OF_SCOPE, BIRTHDAYS = 60, 30


def main() -> None:
    records, truths = _read("records.csv"), {t["ticket_id"]: t for t in _read("truth.csv")}
    whole = [r for r in records if not truths.get(r["ticket_id"], {"malformed": "x"})["malformed"]]
    kinds = defaultdict[str, list[dict[str, str]]](list)
    for record in whole:
        truth = truths[record["ticket_id"]]
        route = truth["expected_route"]
        if route == "local":
            inside = truth["in_scope"] == "true"
            if inside and truth["domain"] not in CARDS:
                continue
            route = "cards" if inside else "other"
        kinds[route].append(record)
    draw = random.Random(3)
    chosen = [*kinds["cards"], *kinds["closed"], *draw.sample(kinds["other"], OUT_OF_SCOPE)]
    chosen += draw.sample(kinds["template"], BIRTHDAYS)
    rows = [
        {ours: record[theirs] for ours, theirs in COLUMNS.items()}
        for record in sorted(chosen, key=lambda record: record["ticket_id"])
    ]
    # Faults of a typical export: an empty cell here, a duplicate number below.
    next(r for r in rows[40:] if r["Type"] == "message")["Customer message"] = ""
    asked = [row for row in rows if row["Type"] != "birthday"]
    _write("truth.csv", [_truth(row, truths[row["Ticket No"]]) for row in asked])
    birthday = next(n for n in range(90, len(rows)) if rows[n]["Type"] == "birthday")
    rows[birthday]["Ticket No"] = rows[birthday - 1]["Ticket No"]
    _write("tickets.csv", rows)


def _truth(row: dict[str, str], truth: dict[str, str]) -> dict[str, str]:
    known = truth["domain"] in CARDS and row["Customer message"]
    return {"Ticket No": row["Ticket No"], "intent": truth["intent"] if known else "other"}


def _read(name: str) -> list[dict[str, str]]:
    # One of the demo's broken records is not UTF-8.
    with (DEMO / name).open(encoding="utf-8", errors="replace", newline="") as file:
        return list(csv.DictReader(file))


def _write(name: str, rows: list[dict[str, str]]) -> None:
    with (HERE / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(f"{len(rows):,} rows in {name}\n")


if __name__ == "__main__":
    main()
