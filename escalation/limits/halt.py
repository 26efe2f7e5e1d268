"""Stops all sending: a cap is reached, or the provider refuses further requests."""

from __future__ import annotations

import asyncio
import contextlib

from runner.types import Reason


class Halt:
    """Whether sending has stopped, and why."""

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
        """Records a failure that does not stop other sending; the first one is kept."""
        self.told = self.told or problem

    def lift(self) -> None:
        """Resumes sending: reserved money was released."""
        self.reason = self.problem = None
        self._event.clear()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but wakes when sending stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
