"""A ledger of the former version, brought to this one in place; its trail goes on, and is whole.

In version 4 a rule's own reason stood where ours do, and could be one of our words: then the record
was treated as what the word says. It has a column of its own now, ``words``. A rule's reason that
is none of our words may stay where it is, since `runner.ledger.columns.read_reason` tells it; the
others are moved, and what had been decided by such a word is taken back, for the next run to do.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.ledger import places
from runner.ledger.columns import was
from runner.ledger.queue import CHOOSING
from runner.ledger.trail import OUTCOME, Trail
from runner.types import DecidedBy, Reason, Route

FORMER = 4
_CHANGES = f"""
ALTER TABLE outcomes ADD COLUMN words TEXT;
DROP INDEX outcomes_by_end;
CREATE INDEX outcomes_by_end ON outcomes (status, decided_by, reason, waits_for, words);
{places.SCHEMA}
PRAGMA user_version = 5;
"""


def migrate(database: sqlite3.Connection, where: Path) -> None:
    """Migrates the ledger in one transaction."""
    trail = Trail(database, where)
    with trail.writing():
        database.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _CHANGES.split(";")):
            database.execute(statement)
        if rules := _rules_with_our_words(database):
            for position, number in _routed_by(database, rules).items():
                _set_right(database, trail, position, rules[number])
        trail.flush()
        database.commit()


def _rules_with_our_words(database: sqlite3.Connection) -> dict[int, Mapping[str, Any]]:
    """The job's rules, by their place, whose reasons are words of ours."""
    found = database.execute("SELECT value FROM meta WHERE key='job'").fetchone()
    rules = json.loads(found[0]).get("routes", []) if found else []
    ours = {str(reason) for reason in Reason}
    return {
        n: rule
        for n, rule in enumerate(rules)
        if rule.get("reason") in ours and rule["to"] != Route.LOCAL
    }


def _routed_by(
    database: sqlite3.Connection, rules: Mapping[int, Mapping[str, Any]]
) -> dict[int, int]:
    """Position → the rule, of the records that these rules routed, as their trail says."""
    found: dict[int, int] = {}
    notes = "SELECT position, note FROM trail WHERE kind=? AND note LIKE '%\"line\":%' ORDER BY seq"
    for position, note in database.execute(notes, (OUTCOME,)):
        told = json.loads(note)
        if "line" in told:  # the note of a first outcome; the last such counts
            found[position] = told.get("rule", -1)
    return {position: number for position, number in found.items() if number in rules}


def _set_right(
    database: sqlite3.Connection, trail: Trail, position: int, rule: Mapping[str, Any]
) -> None:
    select = "SELECT status, reason, decided_by, value FROM outcomes WHERE position=?"
    former = database.execute(select, (position,)).fetchone()
    if former is None:
        return
    _, reason, by, _ = former
    if by == DecidedBy.LOCAL and rule["to"] == Route.CLOSED:
        # No model was asked: an answer of the local one, that there never was, was let stand.
        database.execute("DELETE FROM outcomes WHERE position=?", (position,))
        trail.add(OUTCOME, position, None)
    elif reason == rule["reason"]:
        ours = Reason.TEMPLATE if rule["to"] == Route.TEMPLATE else Reason.RULE
        database.execute(
            "UPDATE outcomes SET reason=?, words=?, waits_for=NULLIF(waits_for, ?) "
            "WHERE position=?",
            (str(ours), reason, CHOOSING, position),
        )
        trail.add_written(OUTCOME, position, note=was(former))
