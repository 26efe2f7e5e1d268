"""A run's figures at a moment, for whoever shows them: a person's display, or a machine's log."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from runner.pipeline.loop import Progress
from runner.types import DecidedBy, Event, Notice, Outcome, Status

WINDOW_S = 30.0
"""Rates are those of so many seconds past."""
_LEAST_S = 0.5
_NOT_PAID = (DecidedBy.LOCAL, DecidedBy.TEMPLATE)


@dataclass(slots=True)
class Counted(Progress):
    """Also sums, over this run's records, what the closed model would have cost (US dollars): for
    all of them, and for those that were decided without it."""

    all_closed_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)

    def count(self, outcome: Outcome) -> None:
        Progress.count(self, outcome)
        self.all_closed_usd += outcome.closed_estimate
        if outcome.decided_by in _NOT_PAID:
            self.saved_usd += outcome.closed_estimate

    def resettle(self, outcome: Outcome) -> None:
        Progress.resettle(self, outcome)
        self.all_closed_usd -= outcome.closed_estimate  # it was counted when it began to wait


class Phase(StrEnum):
    STARTING = "starting"
    LOADING = "loading"
    RUNNING = "running"
    SENDING = "sending"
    """All has been answered locally that is to be; some of it waits for the closed model."""
    WRITING = "writing"


@dataclass(frozen=True, slots=True)
class Reading:
    """``records_per_s`` and ``tokens_per_s``: of the last `WINDOW_S` seconds. ``left_s``: as long
    as it goes on so. ``by``: how many were decided by whom or wait for what. ``saved_usd`` of
    ``all_closed_usd``: by the job's own estimates, of this run's records."""

    phase: Phase
    phase_s: float
    elapsed_s: float
    records: int
    total: int | None
    resumed: int
    records_per_s: float
    tokens_per_s: float
    left_s: float | None
    by: dict[str, int]
    spent_usd: Decimal | None
    cap_usd: Decimal | None
    saved_usd: Decimal
    all_closed_usd: Decimal
    engine_restarts: int
    last_told: Notice | None


@dataclass(slots=True)
class Meter:
    """Reads a run's progress; ``total`` is the number of its records, if known. ``heard`` belongs
    to any thread, `read` to one."""

    progress: Counted
    total: int | None
    clock: Callable[[], float] = time.monotonic
    restarts: int = 0
    last_told: Notice | None = None
    _began: float = field(init=False)
    _phase: tuple[Phase, float] = field(init=False)
    _past: deque[tuple[float, int, int]] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._phase = (Phase.STARTING, self._began)
        self._past = deque([(self._began, 0, 0)])

    def heard(self, notice: Notice) -> None:
        """Of what the run tells its user."""
        with self._lock:
            self.restarts += notice.event is Event.ENGINE_DIED
            self.last_told = notice

    def read(self) -> Reading:
        p, now = self.progress, self.clock()
        by = dict(p.by)
        fresh = sum(by.values())
        done = p.resumed + fresh
        phase = self._phase_now(done, by)
        if phase is not self._phase[0]:
            self._phase = (phase, now)
        records_per_s, tokens_per_s = self._rates(now, fresh)
        left = None if self.total is None else max(0, self.total - done)
        spent, cap = p.money() if p.money is not None else (None, None)
        return Reading(
            phase=phase,
            phase_s=now - self._phase[1],
            elapsed_s=now - self._began,
            records=done,
            total=self.total,
            resumed=p.resumed,
            records_per_s=records_per_s,
            tokens_per_s=tokens_per_s,
            left_s=left / records_per_s if left and records_per_s else None,
            by={name: count for name, count in by.items() if count},
            spent_usd=spent,
            cap_usd=cap,
            saved_usd=p.saved_usd,
            all_closed_usd=max(p.all_closed_usd, p.saved_usd),
            engine_restarts=self.restarts,
            last_told=self.last_told,
        )

    def _phase_now(self, done: int, by: dict[str, int]) -> Phase:
        if self.progress.loading:
            return Phase.LOADING
        if self.total is not None and done >= self.total:
            return Phase.SENDING if by.get(Status.WAITING) else Phase.WRITING
        return Phase.RUNNING if self.progress.seen or done else Phase.STARTING

    def _rates(self, now: float, fresh: int) -> tuple[float, float]:
        """Records and tokens a second. Loading the model is no part of them."""
        tokens = self.progress.generated_tokens
        if self.progress.loading:
            self._past.clear()
        self._past.append((now, fresh, tokens))
        while len(self._past) > 2 and now - self._past[1][0] >= WINDOW_S:
            self._past.popleft()
        then, records_then, tokens_then = self._past[0]
        if (seconds := now - then) < _LEAST_S:
            return 0.0, 0.0
        return (fresh - records_then) / seconds, (tokens - tokens_then) / seconds
