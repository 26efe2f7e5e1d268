"""The spending cap. A request is not sent if its worst-case cost could exceed the cap."""

from __future__ import annotations

import asyncio
from decimal import Decimal


class Budget:
    """Tracks spending and reservations for calls in progress against a cap in US dollars.

    The ledger stores the same amounts durably; this is their running sum.
    """

    def __init__(self, cap: Decimal, committed: Decimal) -> None:
        self.cap = cap
        self._spent = committed
        self._reserved = Decimal(0)
        self._changed = asyncio.Event()

    @property
    def spent(self) -> Decimal:
        """Paid or possibly paid, in US dollars; without calls in progress."""
        return self._spent

    @property
    def left(self) -> Decimal:
        return self.cap - self._spent - self._reserved

    def take(self, amount: Decimal) -> bool:
        """Reserves the amount; returns False if it does not fit beside the calls in progress."""
        if amount > self.left:
            return False
        self._reserved += amount
        return True

    async def reserve(self, worst_case: Decimal) -> bool:
        """Reserves the amount; returns False if it cannot fit whatever the calls in progress cost.
        Waits for them if their cost decides whether it fits."""
        while not self.take(worst_case):
            if not self._reserved:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replaces a reservation by the call's cost (the full reservation if that is unknown)."""
        self._reserved -= reserved
        self._spent += cost
        self._changed.set()

    def refund(self, amount: Decimal) -> None:
        """Subtracts an amount that was counted as spent but was not."""
        self._spent -= amount
        self._changed.set()
