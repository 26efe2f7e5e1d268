"""Chooses how a record is sent now: live, or in one of the provider's batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from runner.job import Escalation


class Lanes:
    """Chooses the lane. ``begun_at``: when the run directory was created; a deadline such as
    ``10h`` counts from then."""

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
        """Whether to send in a batch now: true while a batch can return before the deadline."""
        lane = self._settings.lane
        left = self._left_s()
        return lane == "batch" or (
            lane == "auto" and (left is None or left >= self._settings.batch.expect_s)
        )

    def cut_off(self) -> bool:
        """Whether requests still in batches must be sent live now."""
        left = self._left_s()
        return self._settings.lane == "auto" and left is not None and left <= 0

    def _left_s(self) -> float | None:
        """Seconds until only the time for live calls is left; None without a deadline."""
        if self._deadline is None:
            return None
        return self._deadline - self._settings.batch.live_s - self._now()
