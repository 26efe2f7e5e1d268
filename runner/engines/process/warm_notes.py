"""What a kept engine writes into its lock: who it is, of what it was loaded, and who uses it.

So one that no longer answers can still be shown and ended, and one of a model that was changed
since can be told from those that a run may still want.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runner.engines.process.warm_address import Keep, claimed, code_digest, files_digest
from runner.formats.foreign_json import Unreadable, parse

_MOST_BYTES = 1 << 16
_GONE_WITHIN_S = 5.0
_HOST = b"runner.engines.process.host"

Process = tuple[int, int]
"""(pid, when it started): a number may be another process's later."""


@dataclass(frozen=True, slots=True)
class Note:
    """``user``: the run that has the engine; ``files`` and ``code``: of what it was loaded."""

    process: Process
    model: str
    devices: str | None
    owner: str
    files: str
    code: str
    user: Process | None

    @property
    def lives(self) -> bool:
        return _process(self.process[0]) == self.process

    @property
    def used(self) -> bool:
        return self.user is not None and _process(self.user[0]) == self.user

    @property
    def outdated(self) -> bool:
        """Whether the model or our code has changed since: no run would take it over."""
        return self.code != code_digest() or self.files != files_digest(self.model)


def write(lock: int, keep: Keep, user: int | None) -> None:
    """Into the lock that this process holds; ``user``: the run's pid."""
    used = None if user is None else _process(user)
    note = Note(
        _process(os.getpid()), keep.model, keep.devices, keep.owner, keep.files, code_digest(), used
    )
    content = json.dumps(asdict(note)).encode()
    os.pwrite(lock, content.ljust(os.fstat(lock).st_size), 0)


def read(path: Path) -> Note | None:
    """None where nothing is written there, or another version's."""
    try:
        found: dict[str, Any] = parse(path.read_bytes()[:_MOST_BYTES])
        process, user = found.pop("process"), found.pop("user")
        return Note(process=_pair(process), user=None if user is None else _pair(user), **found)
    except (OSError, Unreadable, AttributeError, KeyError, TypeError, ValueError):
        return None


def end_stuck(lock: Path) -> bool:
    """Kills the engine that holds this lock and does not answer; not where a run uses it, or where
    it is not certainly the engine."""
    note = read(lock)
    if note is None or note.used or not note.lives or not _is_engine(note.process[0]):
        return False
    os.killpg(note.process[0], signal.SIGKILL)
    until = time.monotonic() + _GONE_WITHIN_S
    while (free := claimed(lock)) is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    for ending in (".sock", ".log", ".lock"):
        lock.with_suffix(ending).unlink(missing_ok=True)
    os.close(free)
    return True


def peer(connection: Connection[Any, Any]) -> int:
    """The pid at the other end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        found = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])


def _is_engine(pid: int) -> bool:
    """The leader of a process group of our own, and of the right name."""
    try:
        return os.getpgid(pid) == pid and _HOST in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _process(pid: int) -> Process:
    """With a start of −1 where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return pid, -1 if fields[0] == "Z" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return pid, -1


def _pair(given: Any) -> Process:
    pid, started = given
    return int(pid), int(started)
