"""Deadlines that count only the time in which this process itself ran.

A machine that slept, or a run that was stopped and goes on, finds that an hour has passed in which
nobody could answer it. So silence is counted in steps of our own: however long a step took, it
counts as little more than was asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
TICK_S = 1.0


class Awake:
    """``now``: seconds awake since it was made, as of the last `tick`."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.tick_s = tick_s
        self.now = 0.0
        self._last = time.monotonic()

    def tick(self) -> float:
        """To be called every ``tick_s``; a call that comes far later finds that we slept."""
        now = time.monotonic()
        self.now += min(now - self._last, 2 * self.tick_s)
        self._last = now
        return self.now


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What ``work`` comes to, in so many seconds awake; cancelled where it takes longer.

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
