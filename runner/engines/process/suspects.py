"""Which requests may have killed the engine: those in flight, then ever fewer of them.

After a death nothing else is sent until every request that was in flight has its answer. All of
them go together first: most deaths are nobody's fault. If the engine dies again, they go in small
groups, and those of the group that it dies of one by one: of 512 that is some 50 turns and
two more deaths, where halves would take nine deaths, and one by one 512 turns.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from runner.errors import RecordError

# So many are sent one by one at once.
_FEW = 32
# How much must speak against a request before it is set aside. An engine that died of itself with
# this one alone does so twice; one that was killed from outside, which may be chance, three times.
_ENOUGH = 6
_OF_ITSELF, _FROM_OUTSIDE = 3, 2


@dataclass(slots=True, eq=False)
class Asked:
    """One request. ``turn`` is what it waits on, ``against`` how much speaks against it,
    ``verdict`` why it is set aside."""

    turn: asyncio.Future[None] | None = None
    against: int = 0
    verdict: RecordError | None = None


class Suspects:
    """``now``: those that may be sent at present, where there are suspects at all."""

    def __init__(self) -> None:
        self.now: set[Asked] = set()
        self._groups: deque[list[Asked]] = deque()

    def __bool__(self) -> bool:
        return bool(self.now or self._groups)

    def died(
        self, flying: Collection[Asked], *, by_others: bool = False, blameless: bool = False
    ) -> tuple[Asked | None, bool]:
        """Notes a death; ``by_others``: somebody killed it; ``blameless``: it is known that no
        request was the cause.

        Returns:
            The request that killed it, if that is clear now; and whether one is nearer to that.
        """
        together = [asked for asked in flying if asked.verdict is None]
        again = bool(self) and not blameless
        self.now = set()
        if len(together) == 1 and not blameless:
            together[0].against += _FROM_OUTSIDE if by_others else _OF_ITSELF
            if together[0].against >= _ENOUGH:
                return together[0], True
            again = False
        self._groups.extendleft(reversed(_split(together) if again else [together]))
        return None, again

    def gone(self, asked: Asked) -> None:
        """It is answered, or nobody waits for it any more."""
        self.now.discard(asked)
        for group in self._groups:
            if asked in group:
                group.remove(asked)

    def next_group(self) -> None:
        """Moves on to the next group, once the present one is through."""
        while not self.now and self._groups:
            self.now = set(self._groups.popleft())


def _split(together: list[Asked]) -> list[list[Asked]]:
    size = 1 if len(together) <= _FEW else math.isqrt(len(together) - 1) + 1
    return [together[at : at + size] for at in range(0, len(together), size)]
