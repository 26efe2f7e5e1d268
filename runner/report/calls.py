"""Requests to the closed model: how they ended, what they took, and the spend as it grew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from runner.ledger import Ledger
from runner.ledger.bills import State, Tokens

STEPS = 240


@dataclass(frozen=True, slots=True)
class Calls:
    """``spend``: (seconds since the first call, US dollars so far). ``seconds``: (mean, longest) of
    a live call that was answered."""

    states: Sequence[State]
    tokens: Tokens
    spend: Sequence[tuple[float, Decimal]]
    seconds: tuple[float, float] | None

    @property
    def count(self) -> int:
        return sum(state.calls for state in self.states)


def calls(ledger: Ledger) -> Calls:
    bills = ledger.bills
    return Calls(bills.by_state(), bills.tokens(), bills.spend(STEPS), bills.answer_seconds())
