"""Verifies a ledger: recomputes its audit trail and compares it with every row.

Whoever rewrites the whole file consistently is found only by a hash of the chain that was noted
elsewhere: ``noted``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from runner.ledger.trail import BATCH, OUTCOME, ROWS, START, Entry, content_of, row_of

_SPOKEN_OF = {
    "outcome": "the outcome of",
    "call": "a call for",
    "audit": "the audit of",
    "review": "a review of",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """``problem``: the first thing that is not as it was written, None where all is."""

    entries: int
    head: str
    problem: str | None


def prove(database: sqlite3.Connection, noted: str | None = None) -> Proof:
    """The first thing that is not as it was written, in one pass over the trail and one over the
    rows.

    Args:
        noted: the hash, or its first 16 digits and more, that some entry must have.
    """
    count, head, found = 0, START, noted is None
    for row in database.execute("SELECT * FROM trail ORDER BY seq"):
        entry = Entry(*row)
        if problem := _broken(database, entry, count, head):
            return Proof(count, head.hex(), problem)
        count, head = entry.seq, entry.hash
        found = found or head.hex().startswith((noted or "").lower())
    problem = next(_disagreeing(database), None)
    if problem is None and not found:
        problem = (
            f"no entry has the hash {noted}: the trail's end was taken out, or the whole of it "
            "written anew"
        )
    return Proof(count, head.hex(), problem)


def _broken(database: sqlite3.Connection, entry: Entry, count: int, former: bytes) -> str | None:
    if entry.seq != count + 1:
        return f"entry {count + 1:,} was taken out: entry {entry.seq:,} follows {count:,}"
    try:
        whole = entry.chained(former) == entry.hash
    except (AttributeError, TypeError, UnicodeEncodeError):
        whole = False  # another type than we write
    if whole:
        return None
    return (
        f"entry {entry.seq:,}, {_entry(database, entry)}, is not what was written there: it was "
        "changed, put in, or had another before it"
    )


def _disagreeing(database: sqlite3.Connection) -> Iterator[str]:
    """What the rows have that their last entries do not say, and the other way round."""
    last = database.execute(
        # Of a group SQLite gives the other columns from the row with the maximum.
        "SELECT MAX(seq), at, kind, position, ref, note, content, hash FROM trail "
        "GROUP BY kind, position, ref ORDER BY 1"
    )
    for values in last:
        entry = Entry(*values)
        row = row_of(database, entry.kind, entry.key) if entry.kind in ROWS else None
        if row is None and entry.content is not None:
            yield f"{_entry(database, entry)} was taken out: entry {entry.seq:,} speaks of it"
        elif row is not None and content_of(entry.kind, row) != entry.content:
            yield f"{_entry(database, entry)} was changed after entry {entry.seq:,}, its last"
    for kind, (_, source, name) in ROWS.items():
        unknown = (
            f"SELECT {name} FROM {source} EXCEPT "
            "SELECT COALESCE(ref, position) FROM trail WHERE kind=?"
        )
        for (key,) in database.execute(unknown, (kind,)):
            yield f"{_named(database, kind, key, None)} was put in: no entry speaks of it"
    stray = "SELECT position FROM outcomes WHERE status != 'waiting' AND waits_for IS NOT NULL"
    for (position,) in database.execute(stray):
        named = _named(database, OUTCOME, position, position)
        yield f"{named} was changed: it is said to wait, and does not"


def _entry(database: sqlite3.Connection, entry: Entry) -> str:
    return _named(database, entry.kind, entry.key, entry.position)


def _named(
    database: sqlite3.Connection, kind: str, key: int | str | None, position: int | None
) -> str:
    """What an entry speaks of, for a person."""
    if kind == BATCH:
        return f"batch {key}"
    if kind not in _SPOKEN_OF:
        return f"the run's `{key}`"
    _, source, name = ROWS[kind]
    found = database.execute(f"SELECT record_id, position FROM {source} WHERE {name}=?", (key,))
    row = found.fetchone()
    if row is None:
        select = "SELECT record_id, position FROM outcomes WHERE position=?"
        row = database.execute(select, (position,)).fetchone()
    record = f"{row[0]} (position {row[1]})" if row else f"the record at position {position}"
    return f"{_SPOKEN_OF[kind]} {record}"
