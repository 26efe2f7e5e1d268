"""Puts the export into a SQLite database, as the table `tickets`.

python to_sqlite.py crm.db
"""

from __future__ import annotations

import csv
import sqlite3
import sys
from contextlib import closing
from pathlib import Path


def main() -> None:
    with Path(__file__).with_name("tickets.csv").open(encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file, delimiter=";")
    columns = ", ".join(f'"{name}" TEXT' for name in names)
    with closing(sqlite3.connect(sys.argv[1])) as base, base:
        base.execute("DROP TABLE IF EXISTS tickets")
        base.execute(f"CREATE TABLE tickets ({columns})")
        base.executemany(f"INSERT INTO tickets VALUES ({', '.join('?' * len(names))})", rows)
    sys.stdout.write(f"{len(rows)} tickets in {sys.argv[1]}\n")


if __name__ == "__main__":
    main()
