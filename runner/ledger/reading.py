"""Questions about outcomes: how many records ended how, what they may cost, and where one stands.

Unless it says otherwise, a method speaks of the records that the file which was given last has.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runner.ledger.columns import shown_reason
from runner.ledger.money import from_pico
from runner.types import Reason, Status


@dataclass(frozen=True, slots=True)
class End:
    """So many records ended so. ``reason``: as it is shown; ``waits_for``: why they were not sent
    yet."""

    status: str
    decided_by: str | None
    reason: str | None
    waits_for: str | None
    records: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """So many records are not done for this reason."""

    reason: Reason | str
    waits_for: str | None
    records: int


@dataclass(frozen=True, slots=True)
class Sent:
    """So many records went to the closed model, or wait for it, for this reason. ``field``: the one
    that their local answers were least sure of, where they have fields."""

    reason: str
    field: str | None
    records: int


@dataclass(frozen=True, slots=True)
class Estimates:
    """What the closed model would cost for all records, and for those that wait for it, in US
    dollars, as it was estimated before anything was paid."""

    all_usd: Decimal
    waiting_usd: Decimal


@dataclass(frozen=True, slots=True)
class Former:
    """The former outcome of a record's id."""

    position: int
    digest: str
    status: Status


@dataclass(frozen=True, slots=True)
class Undone:
    """What is kept of a record that is not done. ``local``: the local model's ``value`` and
    ``model``, empty where it gave none."""

    waits_for: str | None
    local: Mapping[str, Any]


class Reading:
    """Of the ``outcomes`` table, and ``held`` beside it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def ends(self) -> list[End]:
        """In one pass over one index."""
        rows = self._db.execute(
            "SELECT status, decided_by, COALESCE(words, reason), waits_for, COUNT(*) FROM present "
            "GROUP BY status, decided_by, reason, waits_for, words"
        )
        return [End(*row) for row in rows]

    def unfinished(self, status: Status) -> list[Unfinished]:
        """Of the records with this status; the most frequent first."""
        rows = self._db.execute(
            "SELECT reason, words, waits_for, COUNT(*) FROM present WHERE status = ? "
            "GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
            (status,),
        )
        return [Unfinished(shown_reason(why, own), cause, n) for why, own, cause, n in rows]

    def sent(self) -> list[Sent]:
        """By reason and field."""
        rows = self._db.execute(
            "SELECT COALESCE(words, reason), CASE WHEN field_confidence != '{}' THEN (SELECT key "
            "FROM json_each(field_confidence) ORDER BY value, key LIMIT 1) END, COUNT(*) FROM "
            "present WHERE status = 'waiting' OR (status = 'done' AND decided_by = 'closed') "
            "GROUP BY 1, 2"
        )
        return [Sent(str(reason), field, count) for reason, field, count in rows]

    def estimates(self) -> Estimates:
        total, waiting = self._db.execute(
            "SELECT SUM(closed_estimate), SUM(CASE status WHEN 'waiting' THEN closed_estimate END) "
            "FROM present"
        ).fetchone()
        return Estimates(from_pico(total), from_pico(waiting))

    def has_only(self, reasons: Sequence[Reason]) -> bool:
        """Whether no outcome, of former files too, has another reason than these."""
        places = ",".join("?" * len(reasons))
        other = f"SELECT 1 FROM outcomes WHERE reason NOT IN ({places}) LIMIT 1"
        return self._db.execute(other, reasons).fetchone() is None

    def former(self, record_id: str) -> Former | None:
        """The first outcome of this id, of former files too."""
        row = self._db.execute(
            "SELECT position, digest, status FROM outcomes WHERE record_id=? "
            "ORDER BY position LIMIT 1",
            (record_id,),
        ).fetchone()
        return Former(row[0], row[1], Status(row[2])) if row else None

    def undone(self, position: int) -> Undone:
        """Of a record that waits, is in review or in error; of a former file's too."""
        waits_for, answer = self._db.execute(
            "SELECT o.waits_for, h.answer FROM outcomes o LEFT JOIN held h USING (position) "
            "WHERE o.position=?",
            (position,),
        ).fetchone()
        return Undone(waits_for, json.loads(answer or "null") or {})

    def ids_beside(self, record_id: str, most: int) -> list[str]:
        """The ids that an index has beside this one, at most so many each way, of former files too:
        those from it on, then those before it, the nearest first."""
        return [
            found
            for way, order in ((">=", "ASC"), ("<", "DESC"))
            for (found,) in self._db.execute(
                f"SELECT record_id FROM outcomes WHERE record_id {way} ? "
                f"ORDER BY record_id {order} LIMIT ?",
                (record_id, most),
            )
        ]
