"""What becomes of a part of a batch: a queue, a choice by id, then a seeded mix."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from .faults import FAULTS, Fault
from .problems import Problem

_INVALID = Problem(400, "invalid_request_error", "This request is not valid.")
_TABLE: Final[tuple[Fault, ...]] = (
    Fault(name="errored_invalid", works=False, problem=_INVALID),
    Fault(name="errored_api", works=False, problem=FAULTS["500"].problem),
    Fault(name="errored_overloaded", works=False, problem=FAULTS["529"].problem),
    Fault(name="expired", works=False),
    Fault(name="canceled", works=False),
)
# The others are answers that are off, as a request of its own can meet them too.
FATES: Final[dict[str, Fault]] = {fate.name: fate for fate in _TABLE} | {
    name: fault for name, fault in FAULTS.items() if fault.answer
}


class Fates:
    """Asked when a part's turn comes, so that a batch which is under way can still be turned."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._queue: list[tuple[Fault, Callable[[str], bool] | None, str]] = []
        self._choice: Callable[[str], str | None] = lambda _: None
        self._rates: dict[str, float] = {}
        self._seed = 0
        self._seen: Counter[str] = Counter()

    def push(
        self,
        *names: str,
        times: int = 1,
        when: Callable[[str], bool] | None = None,
        text: str = "",
    ) -> None:
        """Queue fates, one per part; `when` picks the part by its custom_id, `text` by what its
        request holds."""
        with self._lock:
            self._queue += [(FATES[name], when, text) for _ in range(times) for name in names]

    def by(self, choice: Callable[[str], str | None]) -> None:
        """From custom_id to the name of a fate, or None."""
        self._choice = choice

    def mix(
        self, seed: int, rate: float | Mapping[str, float], names: Iterable[str] = tuple(FATES)
    ) -> None:
        """The draw depends on the seed, the custom_id and how often that id has come."""
        pool = list(names)
        even = rate if isinstance(rate, Mapping) else dict.fromkeys(pool, rate / len(pool))
        if unknown := set(even) - set(FATES):
            raise KeyError(f"no such fates: {sorted(unknown)}")
        with self._lock:
            self._rates, self._seed = dict(even), seed

    def clear(self) -> None:
        with self._lock:
            self._queue.clear()
            self._rates.clear()
            self._choice = lambda _: None

    def waiting(self) -> int:
        """How many queued fates have not met their part yet."""
        return len(self._queue)

    def meet(self, custom_id: str, raw: str) -> Fault | None:
        with self._lock:
            fate = self._queued(custom_id, raw)
            if fate is None and (name := self._choice(custom_id)):
                fate = FATES[name]
            fate = fate or self._drawn(custom_id)
            if fate is not None:
                self.fired[fate.name] += 1
            return fate

    def _queued(self, custom_id: str, raw: str) -> Fault | None:
        for place, (fate, when, text) in enumerate(self._queue):
            if text in raw and (when is None or when(custom_id)):
                del self._queue[place]
                return fate
        return None

    def _drawn(self, custom_id: str) -> Fault | None:
        if not self._rates:
            return None
        self._seen[custom_id] += 1
        draw = random.Random(f"{self._seed}:{custom_id}:{self._seen[custom_id]}").random()
        for name, rate in self._rates.items():
            if draw < rate:
                return FATES[name]
            draw -= rate
        return None
