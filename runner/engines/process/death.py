"""How an engine's process ended, and whether memory was the cause."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from runner.errors import EngineDied

_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|not enough memory|can(no|')t allocate memory|MemoryError|"
    r"bad_alloc|ALLOC_FAILED",
    re.I,
)
# Where Linux counts the processes that it killed for memory: the container's, and the machine's.
_COUNTERS = ("/sys/fs/cgroup/memory.events", "/proc/vmstat")


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not say."""
    found = 0
    for name in _COUNTERS:
        try:
            lines = Path(name).read_text("ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        found += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return found


def lacks_memory(text: str) -> bool:
    """Whether an engine's words speak of too little memory."""
    return _NO_MEMORY.search(text) is not None


def death(said: str | None, status: int | None, stderr: str, *, kernel_killed: bool) -> EngineDied:
    """The error for an engine's process that is gone.

    Args:
        said: the engine's own last words, where it came to say any.
        status: the process's exit status; a signal is negative.
        stderr: the end of what it wrote there.
        kernel_killed: the kernel killed some process for want of memory in the meantime.
    """
    gone, killed = said is None, status == -signal.SIGKILL
    memory = lacks_memory(said or "") or lacks_memory(stderr) or (killed and kernel_killed)
    if said is None:
        said = f"its process {_ending(status)}"
        if killed and kernel_killed:
            said += ", by the kernel for want of memory"
    by_others = status in (-signal.SIGKILL, -signal.SIGTERM) and not memory and gone
    return EngineDied(said, lacked_memory=memory, by_others=by_others)


def _ending(status: int | None) -> str:
    if status is None:
        return "went silent"
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed ({name})"
