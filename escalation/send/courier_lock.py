"""The lock of a run directory's courier: finds its holder, and ends one that is stuck."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from runner.errors import RunFailed
from runner.types import Event, Say, notice

LOOK_S = 0.2
TELL_S = 1.0


async def until_free(path: Path, patience_s: float, end_s: float, say: Say) -> None:
    """Waits for a former run's courier, which exits once its calls are over. Kills one that is
    stopped or stuck and stays longer than its calls can take.

    Raises:
        RunFailed: it cannot be ended from here, or the lock cannot be opened.
    """
    if await _free_within(path, TELL_S):
        return
    pid = _holder(path)
    said = (
        f"the paid calls of a former run are still under way (process {pid}): waiting for them, "
        f"for {patience_s:,.0f} s at most"
    )
    say(notice(Event.FORMER_CALLS, said, pid=pid, wait_s=patience_s))
    if await _free_within(path, patience_s):
        return
    if pid is not None and _is_courier(pid, path.parent):
        said = (
            f"process {pid} was to make a former run's paid calls, and is stuck: it is ended, and "
            "what it sent without a reply counts as spent"
        )
        say(notice(Event.COURIER_LOST, said, pid=pid, problem="is stuck"))
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        if await _free_within(path, end_s):
            return
    raise RunFailed(
        f"the paid calls of a former run are still under way: process {pid} holds {path}; end it "
        f"(`kill -9 {pid}`), and run the same command again"
    )


async def _free_within(path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    try:
        with path.open("a") as lock:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(LOOK_S)
    except OSError as error:
        raise RunFailed(
            f"the courier of paid calls did not start: {path} cannot be used ({error.strerror}); "
            "check that this user can write there"
        ) from None


def _holder(path: Path) -> int | None:
    """Each writes its own number there as it takes the lock."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _is_courier(pid: int, run_dir: Path) -> bool:
    """Whether that process is, on this machine, a courier of this run directory: the lock may be
    held from another one, where the number is another process's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    return "escalation.send.courier" in words and any(
        Path(w).name == run_dir.name for w in words if w
    )
