"""Outcomes, counted by SQLite: by confidence, and by why they are not done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.ledger import Ledger
from runner.ledger.columns import shown_reason
from runner.types import DecidedBy, Reason, Status

BINS = 40


@dataclass(frozen=True, slots=True)
class Confidences:
    """Local answers by confidence, in `BINS` equal bins over [0, 1]: those that stand, and the
    others. ``unknown``: local answers that stand without any confidence."""

    kept: Sequence[int]
    others: Sequence[int]
    unknown: int

    @property
    def known(self) -> int:
        return sum(self.kept) + sum(self.others)


def confidences(ledger: Ledger) -> Confidences:
    bins = {True: [0] * BINS, False: [0] * BINS}
    rows = ledger.query(
        "SELECT decided_by IS ?, MIN(?, CAST(confidence * ? AS INTEGER)), COUNT(*) "
        "FROM outcomes WHERE confidence IS NOT NULL GROUP BY 1, 2",
        (DecidedBy.LOCAL, BINS - 1, BINS),
    )
    for kept, place, count in rows:
        bins[bool(kept)][place] = count
    ((unknown,),) = ledger.query(
        "SELECT COUNT(*) FROM outcomes WHERE decided_by = ? AND confidence IS NULL",
        (DecidedBy.LOCAL,),
    )
    return Confidences(bins[True], bins[False], unknown)


def unfinished(ledger: Ledger, status: Status) -> list[tuple[Reason | str, str | None, int]]:
    """(reason, why it was not sent yet, how many), the most first."""
    rows = ledger.query(
        "SELECT reason, words, waits_for, COUNT(*) FROM outcomes WHERE status = ? "
        "GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
        (status,),
    )
    return [(shown_reason(why, words), cause, count) for why, words, cause, count in rows]
