"""The end of all sending: a cap is reached, or the provider wants no more."""

from __future__ import annotations

import asyncio
import contextlib

from runner.types import Reason


class Halt:
    """Whether, and why, nothing more is sent."""

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.problem: str | None = None
        self.told: str | None = None
        self._event = asyncio.Event()

    def now(self, reason: Reason, problem: str | None = None) -> None:
        if self.reason is None:
            self.reason, self.problem = reason, problem
            self._event.set()

    def tell(self, problem: str | None) -> None:
        """What ended badly, though other sending goes on."""
        self.told = self.told or problem

    def lift(self) -> None:
        """Goes on sending: money that had been set aside came back."""
        self.reason = self.problem = None
        self._event.clear()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not on after all sending has stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
