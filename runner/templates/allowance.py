"""Limits one rendering: an allowance of work, and a limit on CPU time."""

from __future__ import annotations

import threading
import time
from typing import Any

from runner.templates.growth import STEP, TooMuch, size

ALLOWANCE = 10_000_000
"""Work per rendering: the characters produced, plus `STEP` for each step."""
SECONDS = 1.0
"""CPU time per rendering, in seconds; independent of the machine's load."""
_LOOKS_EVERY = 20_000  # in units of work: reading the clock takes longer than most steps


class _Left(threading.local):
    work = look_at = 0
    since: float | None = None


_left = _Left()


def begin() -> None:
    """Starts a rendering in this thread: resets its limits."""
    left = _left
    left.work, left.look_at, left.since = ALLOWANCE, ALLOWANCE - _LOOKS_EVERY, None


def work_left() -> int:
    return _left.work


def charge(work: int) -> None:
    left = _left
    left.work -= work
    if left.work < left.look_at:
        _look(left)


def _look(left: _Left) -> None:
    if left.work < 0:
        raise TooMuch(f"it makes more than {ALLOWANCE:,} characters, or computes as long")
    left.look_at = left.work - _LOOKS_EVERY
    now = time.thread_time()
    left.since = now if left.since is None else left.since
    if now - left.since > SECONDS:
        raise TooMuch(f"it computes for more than {SECONDS:.0f} s")


def admitted(value: Any) -> Any:
    """Charges for the value of a step, and returns it."""
    charge(STEP + size(value, _left.work))
    return value
