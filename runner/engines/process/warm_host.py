"""The kept engine's own end: its lock and socket, who asks for it, and how long it waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from typing import Any

from runner.engines.process import warm_notes
from runner.engines.process.warm_address import Keep, claimed, key
from runner.private import FILE, opener

_ASKS_WITHIN_S = 5.0
_LOOKS_EVERY_S = 0.5
_DYING_S = 0.5  # an engine that is ending may still have its lock
BUSY = "busy"

Caller = tuple["Connection[Any, Any]", float]
"""(the next run's connection, how many minutes the engine shall wait after it)."""


class Keeper:
    """``claim`` makes one; one run at a time has the engine, at first the one that started it."""

    def __init__(self, keep: Keep, lock: int) -> None:
        self._keep = keep
        self._held = lock
        self._waits_s = keep.minutes * 60
        self._idle_since: float | None = None
        self._ending = False
        self._gate = threading.Lock()
        self._next: queue.SimpleQueue[Caller | None] = queue.SimpleQueue()
        self._stopper: Connection[Any, Any] | None = None
        warm_notes.write(lock, keep, os.getppid())
        path = keep.path("sock")
        path.unlink(missing_ok=True)  # its last owner was killed: the lock was free
        self._listener = Listener(str(path), "AF_UNIX", backlog=8, authkey=key(keep.folder))
        path.chmod(FILE)
        threading.Thread(target=self._listen, daemon=True).start()

    @classmethod
    def claim(cls, keep: Keep) -> Keeper | None:
        """None where another process is the engine of that name."""
        until = time.monotonic() + _DYING_S
        while (lock := claimed(keep.path("lock"))) is None:
            if time.monotonic() > until:
                return None
            time.sleep(_DYING_S / 10)
        return cls(keep, lock)

    def release(self) -> None:
        """The run is through, or gone: another may have the engine."""
        with self._gate:
            self._idle_since = time.monotonic()
            warm_notes.write(self._held, self._keep, None)
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND
        log = opener(str(self._keep.path("log")), flags)
        for stream in (1, 2):  # the run that read them is gone
            os.dup2(log, stream)
        os.close(log)

    async def wait(self, ended: Callable[[], bool]) -> Connection[Any, Any] | None:
        """The next run's connection; None once nobody has come for so long, or it is to end.

        Args:
            ended: whether the engine itself has ended.
        """
        while True:
            try:
                caller = await asyncio.to_thread(self._next.get, True, _LOOKS_EVERY_S)
            except queue.Empty:
                if self._over() or ended():
                    return None
                continue
            if caller is None:
                return None
            connection, minutes = caller
            self._waits_s = minutes * 60
            return connection

    def close(self) -> None:
        """Takes its files away; the process is to end now."""
        for ending in ("sock", "log", "lock"):
            self._keep.path(ending).unlink(missing_ok=True)

    def _over(self) -> bool:
        with self._gate:
            since = self._idle_since
            if since is None or time.monotonic() - since < self._waits_s:
                return False
            self._ending, self._idle_since = True, None
            return True

    def _listen(self) -> None:
        while True:
            try:
                caller = self._listener.accept()
            except (OSError, EOFError, AuthenticationError):
                continue
            with contextlib.suppress(OSError, EOFError):
                if caller.poll(_ASKS_WITHIN_S) and self._answer(caller, *caller.recv()):
                    continue
            caller.close()

    def _answer(self, caller: Connection[Any, Any], what: str, minutes: float) -> bool:
        """Whether the connection stays open."""
        if what == "tell":
            caller.send(self._told())
            return False
        with self._gate:
            free = self._idle_since is not None and not self._ending
            if free:
                self._idle_since = None
                warm_notes.write(self._held, self._keep, warm_notes.peer(caller))
        if what == "stop":
            caller.send(free)
            if free:
                self._stopper = caller  # it sees the end of this process
                self._next.put(None)
        elif free:
            self._next.put((caller, minutes))
        else:
            caller.send(BUSY)
        return free

    def _told(self) -> dict[str, Any]:
        with self._gate:
            since, waits = self._idle_since, self._waits_s
        idle = None if since is None else time.monotonic() - since
        return {
            "name": self._keep.name,
            "model": self._keep.model,
            "pid": os.getpid(),
            "devices": self._keep.devices,
            "idle_s": idle,
            "ends_in_s": None if idle is None else max(0.0, waits - idle),
        }
