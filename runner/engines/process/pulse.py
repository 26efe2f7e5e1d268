"""Signs of life between a run and its engine's process, and what is done when they stay away.

A thread of the engine's process sends one every few seconds, beside the loop that generates and
from before the model is loaded, so a slow engine is not taken for a dead one. It sends none while
a process that the engine has started itself is stopped. A minute without one, and the process is
killed, which is then a death like any other (`runner.engines.process.reviving`).

Two things may keep a healthy process silent. A machine that was suspended, or a run that did not
come to listen: so only the time counts in which the listening thread ran itself. And native code
that holds Python's lock for minutes, which generating never does and loading a model may: so while
it loads, a silent process has longer, as long as it is not stopped and the kernel counts work of
it. What cannot be told from slowness is a generating loop that waits for ever by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

BEAT = "beat"
"""The message that says no more than that the process lives."""
_TICKS_S = os.sysconf("SC_CLK_TCK")
_AT_WORK = 0.01
"""The share of one core that tells a process at work from one that waits."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A sign every ``beat_s``; ``silent_s`` without one is too long, ``busy_s`` where it loads and
    is at work; ``load_s`` is too long for loading as a whole."""

    beat_s: float = 5.0
    silent_s: float = 60.0
    busy_s: float = 600.0
    load_s: float = 7200.0

    @property
    def tick_s(self) -> float:
        return min(1.0, self.beat_s / 2)


USUAL = Rhythm()


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a process was given up; ``stopped``: somebody stopped it, and it did nothing wrong."""

    words: str
    stopped: bool = False


class Ticking:
    """Time that passes while this thread runs: a leap of the clock is no more than two ticks."""

    def __init__(self, tick_s: float) -> None:
        self._most = 2 * tick_s
        self._last = time.monotonic()

    def passed(self) -> float:
        """Seconds since the last call."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        return min(passed, self._most)


class Lifeline:
    """The run's end of the connection: hears the signs of life, and ends what gives none."""

    def __init__(self, connection: Connection[Any, Any], rhythm: Rhythm = USUAL) -> None:
        self.stuck: Stuck | None = None
        self.is_loading = True
        self._connection = connection
        self._rhythm = rhythm
        self._heard = 0
        self._over = threading.Event()

    def send(self, what: object) -> None:
        self._connection.send(what)

    def recv(self) -> Any:
        """The next message that is more than a sign of life."""
        while True:
            what = self._connection.recv()
            self._heard += 1
            if what != BEAT:
                return what

    def watch(self, pid: int, end: Callable[[], None]) -> None:
        """From now on ``end`` is called if it gets stuck, whereupon `recv` finds it gone."""
        threading.Thread(target=self._watch, args=(pid, end), name="pulse", daemon=True).start()

    def rest(self) -> None:
        """Watches no more."""
        self._over.set()

    def close(self) -> None:
        self.rest()
        self._connection.close()

    def cut(self) -> None:
        """Whoever reads or writes here comes upon its end; `close` alone would not wake them."""
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as other,
        ):
            other.shutdown(socket.SHUT_RDWR)

    def _watch(self, pid: int, end: Callable[[], None]) -> None:
        ticking = Ticking(self._rhythm.tick_s)
        heard, silent_s, loading_s, used_s = -1, 0.0, 0.0, 0.0
        while not self._over.wait(self._rhythm.tick_s):
            passed = ticking.passed()
            loading_s += passed if self.is_loading else 0.0
            if heard == self._heard:
                silent_s += passed
            else:
                heard, silent_s = self._heard, 0.0
                used_s = _used_s(pid) if self.is_loading else 0.0
            self.stuck = self._judged(pid, silent_s, loading_s, used_s)
            if self.stuck is not None:
                end()
                self.cut()
                return

    def _judged(self, pid: int, silent_s: float, loading_s: float, used_s: float) -> Stuck | None:
        rhythm = self._rhythm
        if self.is_loading and loading_s >= rhythm.load_s:
            return Stuck(f"it was not loaded within {_said(rhythm.load_s)}")
        if silent_s < rhythm.silent_s:
            return None
        silence = f"no sign of life for {_said(silent_s)}"
        if is_stopped(pid):
            return Stuck(f"its process was stopped from outside, {silence}", stopped=True)
        may_be_busy = self.is_loading and silent_s < rhythm.busy_s
        if may_be_busy and _used_s(pid) - used_s > silent_s * _AT_WORK:
            return None
        return Stuck(f"its process hangs, {silence}")


class Heart:
    """The process's end of the connection; its own thread gives the signs of life."""

    def __init__(self, connection: Connection[Any, Any], beat_s: float) -> None:
        self._connection = connection
        self._beat_s = beat_s
        self._gate = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def send(self, what: object) -> None:
        """Raises OSError where the run is gone."""
        with self._gate:
            self._connection.send(what)

    def recv(self) -> Any:
        return self._connection.recv()

    def close(self) -> None:
        self._over.set()
        with self._gate:
            self._connection.close()

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                if not is_stopped(os.getpid()):
                    self.send(BEAT)
                self._over.wait(self._beat_s)


def is_stopped(pid: int) -> bool:
    """Whether this process, or one that it has started, is stopped by a signal."""
    return any(fields[0] == "T" for fields in _family(pid))


def _used_s(pid: int) -> float:
    """The processor time of this process and those that it has started."""
    return sum(int(fields[11]) + int(fields[12]) for fields in _family(pid)) / _TICKS_S


def _family(pid: int) -> Iterator[list[str]]:
    """What the kernel tells of each, from its state on (man 5 proc_pid_stat)."""
    here = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):  # it has ended, or there is no such file system
        yield (here / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        for thread in os.listdir(here / "task"):
            with contextlib.suppress(OSError):
                for child in (here / "task" / thread / "children").read_text().split():
                    yield from _family(int(child))


def _said(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} s"
