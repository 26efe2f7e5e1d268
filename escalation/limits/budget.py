"""The spending cap. Nothing is sent that could, at worst, pass it."""

from __future__ import annotations

import asyncio
from decimal import Decimal


class Budget:
    """Counts what is spent and what is reserved for calls under way against a cap in US dollars.

    The ledger holds the same facts durably; this is their running sum.
    """

    def __init__(self, cap: Decimal, committed: Decimal) -> None:
        self.cap = cap
        self._spent = committed
        self._reserved = Decimal(0)
        self._changed = asyncio.Event()

    @property
    def spent(self) -> Decimal:
        """Paid, or possibly paid; without calls that are under way."""
        return self._spent

    @property
    def left(self) -> Decimal:
        return self.cap - self._spent - self._reserved

    def take(self, amount: Decimal) -> bool:
        """Sets the amount aside; False where it does not fit beside the calls under way."""
        if amount > self.left:
            return False
        self._reserved += amount
        return True

    async def reserve(self, worst_case: Decimal) -> bool:
        """Sets the amount aside; False where it cannot fit whatever the open calls turn out to
        cost. Waits for open calls where their outcome can make the difference."""
        while not self.take(worst_case):
            if not self._reserved:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Exchanges a reservation for what the call cost (all of it, where that is unknown)."""
        self._reserved -= reserved
        self._spent += cost
        self._changed.set()

    def refund(self, amount: Decimal) -> None:
        """Takes back what was counted as spent and was not."""
        self._spent -= amount
        self._changed.set()
