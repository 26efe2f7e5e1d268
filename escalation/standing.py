"""Held records whose local answer may stand whatever the closed model does: those that were sent
to be audited, and those among which a budget is divided."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from runner.ledger import Held, Ledger
from runner.types import DecidedBy, Outcome, Reason, Status

STANDS = {Reason.AUDIT: Reason.CONFIDENT, Reason.EXPECTED_LOSS: Reason.BUDGET_ELSEWHERE}
"""Why it was held → why its local answer stands after all."""
_PAGE = 500


def local_outcome(held: Held, cost_usd: Decimal) -> Outcome:
    """The record done with the local answer that it was held with."""
    local = held.local or {}
    return Outcome(
        held.record.position,
        held.record.id,
        Status.DONE,
        local.get("value"),
        DecidedBy.LOCAL,
        STANDS[Reason(held.reason)],
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


def divide(ledger: Ledger, money: Decimal) -> int:
    """Chooses, of the records among which the budget is to be divided, those where a dollar
    prevents most expected loss, until the money is spent; returns how many.

    Greedy by loss per dollar: the fractional knapsack's optimum but for the last record (Dantzig,
    1957). Records of no expected loss are never chosen.
    """
    waiting = [(p, loss, cost) for p, loss, cost in ledger.choosing() if loss > 0]
    waiting.sort(key=lambda row: (-row[1] / max(float(row[2]), 1e-12), row[0]))
    chosen, left = [], money
    for position, _, cost in waiting:
        if cost <= left:
            chosen.append(position)
            left -= cost
    ledger.choose(chosen)
    ledger.commit()
    return len(chosen)
