"""Gives held records their local answer when the closed model is not used after all.

These are the audited records and those among which a budget is divided."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from decimal import Decimal

from runner.ledger import Held, Ledger
from runner.types import DecidedBy, Outcome, Reason, Status

STANDS = {Reason.AUDIT: Reason.CONFIDENT, Reason.EXPECTED_LOSS: Reason.BUDGET_ELSEWHERE}
"""Why it was held → why its local answer stands after all."""
_PAGE = 500
_RESERVED_PER_ESTIMATE = 10
"""The most that is reserved for a call, as a multiple of its estimate, or nearly so."""


def local_outcome(held: Held, cost_usd: Decimal) -> Outcome:
    """The record done with the local answer that it was held with."""
    local = held.local or {}
    return Outcome(
        held.record.position,
        held.record.id,
        Status.DONE,
        local.get("value"),
        DecidedBy.LOCAL,
        STANDS[held.reason],
        held.confidence,
        held.field_confidence,
        local.get("model"),
        cost_usd=cost_usd,
        closed_estimate=held.closed_estimate,
    )


def let_stand(ledger: Ledger, reason: Reason) -> Iterator[Outcome]:
    """Gives every record that still waits for this reason its local answer."""
    after = -1
    while page := ledger.waiting(reason, after, _PAGE):
        for held in page:
            outcome = local_outcome(held, ledger.attempts.paid_usd(held.record.position))
            ledger.change(outcome)
            yield outcome
        after = page[-1].record.position
        ledger.commit()


class Division:
    """The budget, divided over the records among which it is to be: those where a dollar prevents
    most expected loss first. Records of no expected loss are never chosen.

    Greedy by loss per dollar: the fractional knapsack's optimum but for the last record (Dantzig,
    1957). It goes part by part, since calls cost less than is reserved for them, and each part is
    divided out of what is truly left; and since within a part records are sent in input order, no
    part may be larger than what surely can be reserved.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        rows = [(p, loss, cost) for p, loss, cost in ledger.choosing() if loss > 0]
        rows.sort(key=lambda row: (-row[1] / max(float(row[2]), 1e-12), row[0]))
        self._ranked = deque((position, cost) for position, _, cost in rows)

    def choose(self, money: Decimal) -> int:
        """Makes the next part ready to be sent; returns how many records, 0 when nothing fits."""
        chosen: list[int] = []
        planned = Decimal(0)
        while self._ranked:
            position, cost = self._ranked[0]
            if cost <= money:
                if chosen and planned + cost > money / _RESERVED_PER_ESTIMATE:
                    break
                chosen.append(position)
                planned += cost
            self._ranked.popleft()
        self._ledger.choose(chosen)
        self._ledger.commit()
        return len(chosen)
