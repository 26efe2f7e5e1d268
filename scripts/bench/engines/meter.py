"""What a way took: seconds, CPU seconds of its whole process tree, and its loading apart."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

SAMPLE_S = 0.5
Seen = tuple[int, float]
"""A process, by its number and the time it was made."""


@dataclass(frozen=True, slots=True)
class Took:
    """``tokens`` made in ``seconds``, of which all cores together worked ``cpu_s``; ``load_s``
    came before: from the start of the process until the first request could be sent."""

    tokens: int
    seconds: float
    cpu_s: float
    load_s: float
    said: str = ""

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Meter:
    """A clock over this process and all below it. `start` once the engine is there, `stop` after
    the last answer is written.

    Args:
        sampled: some processes end before `stop`, and nobody who is measured waits for them; their
            CPU seconds are then looked at twice a second, and what they do after that is lost.
    """

    def __init__(self, *, sampled: bool = False) -> None:
        self._began = self._load = self._seconds = 0.0
        self._sampled = sampled
        self._first: dict[Seen, float] = {}
        self._seen: dict[Seen, float] = {}
        self._over = threading.Event()

    def start(self) -> None:
        self._load = time.time() - psutil.Process().create_time()
        self._began, self._first = time.monotonic(), self._tree()
        if self._sampled:
            self._seen = dict(self._first)
            threading.Thread(target=self._sample, daemon=True).start()

    def stop(self) -> None:
        self._seconds = time.monotonic() - self._began
        self._over.set()
        self._seen |= self._tree()

    def took(self, tokens: int, said: str = "") -> Took:
        spent = sum(self._seen.values()) - sum(self._first.values())
        return Took(tokens, self._seconds, spent, self._load, said)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._seen |= self._tree()

    def _tree(self) -> dict[Seen, float]:
        """CPU seconds until now of this process and its descendants; unless they are sampled, with
        those of the ended ones that they waited for."""
        me = psutil.Process()
        found: dict[Seen, float] = {}
        for one in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()  # user, system, and the same of waited-for children
                found[one.pid, one.create_time()] = sum(times[: 2 if self._sampled else 4])
        return found
