"""What one rendering may still do: an allowance of work, and a clock behind it."""

from __future__ import annotations

import threading
import time
from typing import Any

from runner.templates.growth import STEP, TooMuch, size

ALLOWANCE = 10_000_000
"""Characters that are made, and `STEP` for each step."""
SECONDS = 1.0
"""Of the processor: on a busy machine a template has no less."""
_LOOKS_EVERY = 20_000  # of the allowance: a look at the clock takes longer than most steps


class _Left(threading.local):
    work = look_at = 0
    since: float | None = None


_left = _Left()


def begin() -> None:
    """A rendering begins in this thread."""
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
    """What a step has made."""
    charge(STEP + size(value, _left.work))
    return value
