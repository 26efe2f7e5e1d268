"""Questions about local answers and their confidence: for the report, and for curves.

All of them speak of the records that the file which was given last has, but for `Answers.checked`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runner.formats.typed_json import read
from runner.ledger.columns import shown_reason
from runner.ledger.money import from_pico
from runner.types import DecidedBy, JSONValue, Reason, Record

# Answered locally, though without a confidence.
_UNSCORED = (Reason.INVALID, Reason.NO_CONFIDENCE)
_EXAMPLE = (
    "SELECT o.position, o.record_id, o.digest, o.status, o.decided_by, o.reason, o.words, "
    "o.confidence, o.value, h.line, h.fields, h.answer "
    "FROM present o LEFT JOIN held h USING (position) "
)


@dataclass(frozen=True, slots=True)
class Confidences:
    """Local answers by confidence, in equal bins over [0, 1]: those that stand, and the others.
    ``unknown``: local answers that stand without any confidence."""

    kept: Sequence[int]
    others: Sequence[int]
    unknown: int

    @property
    def known(self) -> int:
        return sum(self.kept) + sum(self.others)


@dataclass(frozen=True, slots=True)
class Example:
    """An outcome with its answer: the one that stands or, of what is not done, the local one.
    ``record``: whole, of what is not done; else None, since no more than its digest is kept."""

    position: int
    record_id: str
    digest: str
    status: str
    decided_by: str | None
    reason: Reason | str
    confidence: float | None
    answer: JSONValue
    record: Record | None


@dataclass(frozen=True, slots=True)
class Part:
    """Records that were answered locally (``local``) or never were, and that were ``sent`` to the
    closed model, or wait for it, or were not. ``estimated_usd``: what it would cost for them."""

    local: bool
    sent: bool
    records: int
    estimated_usd: Decimal


class Answers:
    """Of the ``outcomes`` table, with ``held``, ``audits``, ``reviews`` and ``trail`` beside it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def by_confidence(self, bins: int) -> Confidences:
        """Counts the local answers in ``bins`` equal bins of confidence."""
        found = {True: [0] * bins, False: [0] * bins}
        rows = self._db.execute(
            "SELECT decided_by IS ?, MIN(?, CAST(confidence * ? AS INTEGER)), COUNT(*) "
            "FROM present WHERE confidence IS NOT NULL GROUP BY 1, 2",
            (DecidedBy.LOCAL, bins - 1, bins),
        )
        for kept, place, count in rows:
            found[bool(kept)][place] = count
        (unknown,) = self._db.execute(
            "SELECT COUNT(*) FROM present WHERE decided_by = ? AND confidence IS NULL",
            (DecidedBy.LOCAL,),
        ).fetchone()
        return Confidences(found[True], found[False], unknown)

    def estimates(self) -> list[tuple[float, Decimal]]:
        """(confidence, what the closed model would cost in US dollars) of each record that has a
        confidence."""
        rows = self._db.execute(
            "SELECT confidence, closed_estimate FROM present WHERE confidence IS NOT NULL"
        )
        return [(confidence, from_pico(cost)) for confidence, cost in rows]

    def parts(self) -> list[Part]:
        """All records, by whether they were answered locally and whether they were sent."""
        marks = ",".join("?" * len(_UNSCORED))
        # Not `=`: what nobody decided would be NULL, and a group of its own.
        answered = f"decided_by IS 'local' OR COALESCE(reason IN ({marks}), 0)"
        local = f"confidence IS NOT NULL OR {answered}"
        sent = "decided_by IS 'closed' OR status = 'waiting'"
        rows = self._db.execute(
            f"SELECT {local}, {sent}, COUNT(*), SUM(closed_estimate) FROM present GROUP BY 1, 2",
            _UNSCORED,
        )
        return [Part(bool(here), bool(there), n, from_pico(e)) for here, there, n, e in rows]

    def least_sure(self, most: int, *, standing: bool = False) -> list[Example]:
        """The least confident answers, lowest first. ``standing``: only accepted local answers."""
        stands = " AND o.decided_by = 'local'" if standing else ""
        order = "ORDER BY o.confidence, o.position LIMIT ?"
        return self._examples(f"o.confidence IS NOT NULL{stands} {order}", (most,))

    def at(self, positions: Sequence[int]) -> list[Example]:
        """The outcomes at these positions, in ascending order."""
        places = ",".join("?" * len(positions))
        return self._examples(f"o.position IN ({places}) ORDER BY o.position", positions)

    def _examples(self, which: str, values: Sequence[int]) -> list[Example]:
        rows = self._db.execute(f"{_EXAMPLE} WHERE {which}", values)
        return [_example(*row) for row in rows]

    def unsettled(self, most: int) -> Iterator[Record]:
        """The records that wait or are in review though a local answer was tried; of more than so
        many, some at equal distances stand for all."""
        rule = "o.status IN ('waiting', 'review') AND o.confidence IS NOT NULL"
        (count,) = self._db.execute(f"SELECT COUNT(*) FROM present o WHERE {rule}").fetchone()
        rows = self._db.execute(
            "SELECT o.position, o.record_id, h.line, h.fields FROM present o "
            f"JOIN held h USING (position) WHERE {rule} AND o.position % ? = 0 LIMIT ?",
            (max(1, -(-count // most)), most),
        )
        for position, name, line, fields in rows:
            yield Record(position, name, read(fields), line)

    def checked(self) -> list[tuple[float, bool]]:
        """(confidence, whether it was wrong) of the local answers that were checked: the audited
        ones, then those not accepted that a person has decided on since. What the model had said of
        these, only the trail still knows. Of two checks of one answer the audit counts."""
        audited = self._db.execute(
            "SELECT o.confidence, a.wrong FROM audits a JOIN outcomes o USING (position) "
            "WHERE o.confidence IS NOT NULL"
        )
        found = [(confidence, bool(wrong)) for confidence, wrong in audited]
        # A few thousand at most: as many as people have decided.
        rows = self._db.execute(
            "SELECT o.confidence, t.note, r.value, t.position FROM trail t "
            "JOIN outcomes o USING (position) JOIN reviews r USING (position) "
            "WHERE t.kind = 'outcome' AND t.note LIKE '%\"answer\":%' AND o.confidence IS NOT NULL "
            "AND t.position NOT IN (SELECT position FROM audits) ORDER BY r.rowid"
        )
        decided = {}
        for confidence, note, value, position in rows:
            said = json.loads(note)
            if said.get("answer") is not None:
                decided[position] = (confidence, said["answer"] != json.loads(value))
        return [*found, *decided.values()]


def _example(
    position: int, name: str, digest: str, status: str, by: str | None, *rest: Any
) -> Example:
    why, words, confidence, value, line, fields, held = rest
    # What is done has one answer, the one that stands; whoever gave it.
    answer = json.loads(value) if by else (json.loads(held or "null") or {}).get("value")
    record = None if fields is None else Record(position, name, read(fields), line)
    reason = shown_reason(why, words)
    return Example(position, name, digest, status, by, reason, confidence, answer, record)
