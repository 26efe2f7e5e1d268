"""Kept engines as a run finds them: taken over, looked at, ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runner.engines.process import warm_notes
from runner.engines.process.pulse import BEAT, Lifeline
from runner.engines.process.warm_address import Keep, bounded, called, claimed, folder
from runner.engines.process.wire import Ready
from runner.types import Engine

_TAIL_BYTES = 1 << 16
_ANSWERS_WITHIN_S = 2.0
_ENDS_WITHIN_S = 10.0
BUSY = "busy"


class Adopted:
    """A kept engine's process, this run's for now; as `runner.engines.process.process.Started`.
    ``log`` is where its stderr goes."""

    is_kept, note = True, ""

    def __init__(self, connection: Connection[Any, Any], ready: Ready, log: Path) -> None:
        self.connection = Lifeline(connection)
        self._ready = ready
        self._log = log

    @property
    def pid(self) -> int:
        return self._ready.pid

    def load(self, make: Callable[[], Engine]) -> Ready:
        return self._ready

    def status(self, wait_s: float) -> int | None:
        return None  # it is no child of ours

    def stderr(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        return ""

    def end(self) -> None:
        if self.is_kept:
            self.is_kept = False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def leave(self) -> None:
        return None

    def join(self, seconds: float) -> None:
        self.end()


class Hung(Exception):
    """The kept engine is there and does not answer; its message is for the run's user."""

    def __init__(self) -> None:
        super().__init__(
            "the kept engine hangs: this run has loaded its own, which ends with it; "
            "`surelocal engines --stop` ends the other"
        )


def adopt(keep: Keep) -> Adopted | None:
    """The kept engine of that name, where there is one that no other run uses.

    Raises:
        Hung: it has not answered in time.
    """
    address = keep.path("sock")
    connection = called(address)
    if connection is None:
        if address.exists() and _is_held(keep.path("lock")):
            raise Hung
        return None
    try:
        bounded(connection, _ANSWERS_WITHIN_S)
        connection.send(("adopt", keep.minutes))
        ready = connection.recv()
        while ready == BEAT:
            ready = connection.recv()
        bounded(connection, 0)
    except BlockingIOError:
        connection.close()
        raise Hung from None
    except (OSError, EOFError):  # it has ended just now
        ready = None
    if isinstance(ready, Ready):
        return Adopted(connection, ready, keep.path("log"))
    connection.close()
    return None


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    lock = claimed(path)
    if lock is not None:
        os.close(lock)
    return lock is None


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept engine. ``idle_s``: since its last run; None while one uses it, and where it does not
    answer. Memory is resident, its own processes' included."""

    name: str
    model: str
    pid: int
    memory_bytes: int
    idle_s: float | None
    ends_in_s: float | None
    devices: str | None
    answers: bool = True


def kept() -> list[Kept]:
    """All of the user's kept engines. What dead ones have left behind is taken away."""
    found = []
    for address in sorted(folder().glob("*.sock")):
        told = _asked(address, "tell")
        if isinstance(told, dict):
            found.append(Kept(**told, memory_bytes=_memory(told["pid"])))
        elif (lock := claimed(address.with_suffix(".lock"))) is not None:
            for ending in (".sock", ".log", ".lock"):
                address.with_suffix(ending).unlink(missing_ok=True)
            os.close(lock)
        elif (note := warm_notes.read(address.with_suffix(".lock"))) and note.lives:
            pid = note.process[0]
            found.append(
                Kept(
                    address.stem, note.model, pid, _memory(pid), None, None, note.devices,
                    answers=False,
                )
            )  # fmt: skip
    return found


def stop(engine: Kept) -> bool:
    """Ends it, unless a run uses it; by force where it does not answer."""
    address = folder() / f"{engine.name}.sock"
    answer = _asked(address, "stop")
    if isinstance(answer, bool):
        return answer
    return warm_notes.end_stuck(address.with_suffix(".lock"))


def make_room() -> int:
    """Ends the idle engines on this run's GPUs, which hold the memory that the next one needs.
    Returns their number."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    return sum(stop(one) for one in kept() if one.idle_s is not None and one.devices == devices)


def _asked(address: Path, what: str) -> Any:
    connection = called(address)
    if connection is None:
        return None
    with connection, contextlib.suppress(OSError, EOFError):
        connection.send((what, 0.0))
        if connection.poll(_ANSWERS_WITHIN_S):
            answer = connection.recv()
            if what == "stop" and answer is True:
                connection.poll(_ENDS_WITHIN_S)  # until it is gone
            return answer
    return BUSY


def _memory(group: int) -> int:
    """Resident bytes of a process group."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                pages += int(fields[21])
    return pages * os.sysconf("SC_PAGE_SIZE")
