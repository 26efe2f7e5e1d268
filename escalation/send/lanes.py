"""Which way a record is asked now: live, or in one of the provider's batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from runner.job import Escalation


class Lanes:
    """``begun_at``: when the run directory was begun, which a deadline such as ``10h`` counts
    from."""

    def __init__(
        self, settings: Escalation, begun_at: float, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._now = now
        given = settings.deadline
        self._deadline: float | None = None
        if isinstance(given, datetime):
            self._deadline = given.timestamp()
        elif given is not None:
            self._deadline = begun_at + given.total_seconds()

    def batch(self) -> bool:
        """Whether what is sent now goes into a batch: as long as one can be back in time."""
        lane = self._settings.lane
        left = self._left_s()
        return lane == "batch" or (
            lane == "auto" and (left is None or left >= self._settings.batch.expect_s)
        )

    def cut_off(self) -> bool:
        """Whether what is still in batches must be asked live now."""
        left = self._left_s()
        return self._settings.lane == "auto" and left is not None and left <= 0

    def _left_s(self) -> float | None:
        """Until only the time for asking live is left; None without a deadline."""
        if self._deadline is None:
            return None
        return self._deadline - self._settings.batch.live_s - self._now()
