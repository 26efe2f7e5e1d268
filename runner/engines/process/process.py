"""The process that an engine lives in, as the run has it: started here, or one that was kept."""

from __future__ import annotations

import codecs
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Protocol

from runner import keys
from runner.engines.process.pulse import USUAL, Lifeline, Rhythm
from runner.engines.process.warm_address import Keep
from runner.engines.process.wire import Ready, failure
from runner.events import uncoloured
from runner.plain import printable
from runner.types import Engine

_KEPT_STDERR_BYTES = 1 << 16
_DIES_WITHIN_S = 10.0
"""Killed, it may still be in the kernel, and is then left to it."""

Ahead = Callable[[], object]
_left: list[subprocess.Popen[bytes]] = []  # else they would be missed as still running


class Process(Protocol):
    """``is_kept``: it goes on when the run lets go of it."""

    connection: Lifeline
    is_kept: bool
    note: str

    @property
    def pid(self) -> int: ...

    def load(self, make: Callable[[], Engine]) -> Ready:
        """Raises what the engine raised, and EOFError or OSError where the process has ended."""

    def status(self, wait_s: float) -> int | None:
        """Its exit status once it has ended, if that can be known."""

    def stderr(self) -> str:
        """The end of what it wrote there."""

    def end(self) -> None:
        """Ends what is left of it and of its own processes."""

    def leave(self) -> None:
        """It goes on by itself."""

    def join(self, seconds: float) -> None:
        """Waits for its own end; it is to be ended all the same."""


class Started:
    """A process of this run's; it ends with the run, or is kept from then on.

    ``not_kept`` is noted where it was to be kept and another has that name.

    Args:
        ahead: called there at once, while the run is made ready; it imports the engine's library.
        keep: how long the engine stays, and as what.
    """

    def __init__(
        self, ahead: Ahead | None = None, keep: Keep | None = None, rhythm: Rhythm = USUAL
    ) -> None:
        ours, theirs = Pipe()
        self.connection = Lifeline(ours, rhythm)
        # A session of its own: Ctrl-C is the run's to hear, and the group can be ended as a whole.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "runner.engines.process.host"),
                *(str(theirs.fileno()), str(rhythm.beat_s)),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=keys.environment(),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.is_kept, self.note = False, ""
        self.not_kept = IN_USE
        self._keep = keep
        self._is_ended = False
        self._stderr = b""
        self._reader = threading.Thread(target=self._keep_stderr, name="engine", daemon=True)
        self._reader.start()
        self._send(sys.path)
        self._send(ahead)

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, make: Callable[[], Engine]) -> Ready:
        with _as_loading(self):
            self.connection.send((make, self._keep))
            ready = self.connection.recv()
        if not isinstance(ready, Ready):
            raise failure(ready)
        self.is_kept = ready.kept
        if self._keep is not None and not ready.kept:
            self.note = self.not_kept
        return ready

    def status(self, wait_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(wait_s)
        return None

    def stderr(self) -> str:
        self._reader.join(1.0)
        return self._stderr.decode("utf-8", "replace")

    def end(self) -> None:
        # The engine's own processes outlive it, and hold the memory that the next one needs. But
        # once: later the number may be another's.
        if not self._is_ended:
            self._is_ended = True
            _kill(self.pid)
            try:
                self._process.wait(_DIES_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.leave()

    def leave(self) -> None:
        _left.append(self._process)

    def join(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.end()
        self._reader.join(seconds)

    def _send(self, what: object) -> None:
        with contextlib.suppress(OSError):  # it has died: `load` sees to that
            self.connection.send(what)

    def _keep_stderr(self) -> None:
        """A thread: passes on what the process writes there, and keeps the end of it."""
        assert self._process.stderr is not None
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with self._process.stderr as stderr:
            while chunk := os.read(stderr.fileno(), 1 << 16):
                self._stderr = (self._stderr + chunk)[-_KEPT_STDERR_BYTES:]
                # It may tell of a record. A bar that overwrites itself becomes lines.
                text = uncoloured(decoder.decode(chunk)).replace("\r\n", "\n").replace("\r", "\n")
                with contextlib.suppress(OSError):
                    os.write(2, printable(text).encode("utf-8", "replace"))


IN_USE = (
    "the kept engine is another run's at present: this run has loaded its own, which ends with it"
)

_spare: list[tuple[bytes, Started]] = []


def start_ahead(ahead: Ahead) -> None:
    """Starts a process that does ``ahead`` now, and that the next `started` with the same one
    gets."""
    end_spare()
    _spare.append((pickle.dumps(ahead), Started(ahead)))


def started(ahead: Ahead | None, keep: Keep | None = None) -> Started:
    """A new process, or the one that was started ahead for this."""
    if _spare and ahead is not None and _spare[0][0] == pickle.dumps(ahead):
        process = _spare.pop()[1]
        process._keep = keep
        return process
    end_spare()
    return Started(ahead, keep)


_loading: set[Started] = set()


@contextlib.contextmanager
def _as_loading(process: Started) -> Iterator[None]:
    _loading.add(process)
    try:
        yield
    finally:
        _loading.discard(process)


def end_loading() -> None:
    """Ends those that are still loading, for whom nobody waits any more."""
    for process in list(_loading):
        process.end()


def end_spare() -> None:
    """Ends the process that was started ahead, if nothing needed it."""
    while _spare:
        process = _spare.pop()[1]
        process.connection.close()
        process.end()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
