"""The records that the local model took longest for, a few of them, over all of a directory's runs.

What is measured is the time from handing a prompt to the engine until its whole answer is there. In
a full batch much of that is waiting for a turn, and an engine that was started again counts too.
"""

from __future__ import annotations

import heapq

from runner.ledger import Ledger

KEPT = 20


class Slowest:
    """Keeps the `KEPT` longest times of this process (seconds), in O(log `KEPT`) each and mostly
    in one comparison."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def saw(self, position: int, seconds: float) -> None:
        """``position``: the record's, in input order."""
        if len(self._heap) < KEPT:
            heapq.heappush(self._heap, (seconds, position))
        elif seconds > self._heap[0][0]:
            heapq.heapreplace(self._heap, (seconds, position))

    def keep(self, ledger: Ledger) -> None:
        """Adds them to those of former runs. A record that was done again has its latest time."""
        if not self._heap:
            return
        times = {**dict(ledger.meta.slowest), **{place: seconds for seconds, place in self._heap}}
        longest = sorted(times.items(), key=lambda one: (-one[1], one[0]))[:KEPT]
        ledger.meta.slowest = [(position, round(seconds, 4)) for position, seconds in longest]
