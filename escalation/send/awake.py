"""Deadlines that count only the time in which this process ran.

After the machine sleeps, or a stopped run continues, an hour may have passed in which nothing could
answer. Silence is therefore counted in ticks: however long a tick took, it counts for at most twice
its nominal length.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
TICK_S = 1.0


class Awake:
    """A clock of time awake. ``now``: seconds since its creation, as of the last `tick`."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.tick_s = tick_s
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> float:
        """Advances the clock; call it every ``tick_s``. A late call means the process slept."""
        now = time.monotonic()
        self.now += min(now - self._last, 2 * self.tick_s)
        self._last = now
        return self.now


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Returns the result of ``work``, cancelling it after ``seconds`` awake.

    Raises:
        TimeoutError: it took longer.
    """
    clock = Awake(min(TICK_S, max(seconds / 4, 0.01)))
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            if clock.tick() >= seconds:
                raise TimeoutError(f"not within {seconds:g} s")
            await asyncio.wait([task], timeout=clock.tick_s)
        return task.result()
    finally:
        task.cancel()
