"""An engine in a process of its own, behind the same protocol.

Its death is not the run's: what was in flight fails with `EngineDied`, and another can be started.
It is also faster than one in the run's process: the run's own work (rendering, checking, the
ledger) no longer takes turns with the thread that keeps the model fed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any

from runner.engines.process.death import death, kernel_kills
from runner.engines.process.process import Process, Started
from runner.engines.process.wire import GONE, KINDS, RELEASE, Asks, Kind, Ready, failure
from runner.errors import EngineDied, EngineError
from runner.types import Completion, Engine, Prompt, Sampling

_CLOSING_S = 20.0

Waiting = tuple[asyncio.Future[Completion], asyncio.AbstractEventLoop]


class ChildEngine:
    """Starts the process and loads the engine in it; not for a thread in which an event loop runs.

    Args:
        make: what makes the engine over there; it travels there by pickle.
        process: the process for it, where that is another than a new one of the run's own.

    Raises:
        EngineError, UsageError: it cannot be loaded.
        EngineDied: its process ended while it loaded.
    """

    def __init__(self, make: Callable[[], Engine], process: Process | None = None) -> None:
        self._kills = kernel_kills()
        self._process = process if process is not None else Started()
        self._connection = self._process.connection
        self._connection.watch(self._process.pid, self._process.end)
        self.death: EngineError | None = None
        self._waiting: dict[int, Waiting] = {}
        self._numbers = itertools.count()
        self._kinds: dict[int, Kind] = {}
        self._kinds_sent = 0
        self._outbox: queue.SimpleQueue[tuple[int, Prompt, Sampling] | None] = queue.SimpleQueue()
        ready = self._load(make)
        self.window, self.asks_for, self.note = ready.window, ready.asks_for, self._process.note
        self._threads = [_thread(self._send), _thread(self._receive)]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _load(self, make: Callable[[], Engine]) -> Ready:
        try:
            ready = self._process.load(make)
        except (EOFError, OSError):
            raise self._ended(None, None) from None
        except BaseException:
            self._connection.rest()
            self._process.end()
            raise
        self._connection.is_loading = False
        return ready

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion] = loop.create_future()
        number = next(self._numbers)
        self._waiting[number] = (future, loop)
        # Looked at after the entry: either the one who notes the death finds it, or this does.
        if self.death is not None:
            self._waiting.pop(number, None)
            raise self.death
        self._outbox.put((number, prompt, sampling))
        return await future

    async def aclose(self) -> None:
        if self.death is None:
            self.death = EngineError("the engine was closed")
            self._outbox.put(None)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._process.is_kept:
            self._process.leave()
        else:
            self._process.join(_CLOSING_S)
        self._connection.rest()
        for thread in self._threads:
            thread.join(_CLOSING_S)
        if any(thread.is_alive() for thread in self._threads):  # one to be kept that hangs
            self._process.end()
            self._connection.cut()
        self._connection.close()

    def _send(self) -> None:
        """A thread: whatever waits goes in one message."""
        over = False
        while not over:
            taken = [self._outbox.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._outbox.get_nowait())
            over = None in taken
            with contextlib.suppress(OSError):  # it has died: `_receive` sees to that
                if asked := [one for one in taken if one is not None]:
                    self._connection.send(self._asks(asked))
                if over:
                    self._connection.send(RELEASE if self._process.is_kept else None)

    def _asks(self, asked: list[tuple[int, Prompt, Sampling]]) -> Asks:
        """Constraints are large and few: they are not sent with every request."""
        asks: Asks = []
        for number, prompt, sampling in asked:
            kind = (prompt.constraint, sampling)
            known = next((n for n, other in self._kinds.items() if other == kind), None)
            if known is None:
                at = self._kinds_sent = self._kinds_sent + 1
                self._kinds[at] = kind
                self._kinds.pop(at - KINDS, None)
                asks.append((number, prompt.messages, at, kind))
            else:
                asks.append((number, prompt.messages, known, None))
        return asks

    def _receive(self) -> None:
        """A thread: hands out what comes back, and notes the death."""
        said: str | None = None
        status: int | None = None
        try:
            while True:
                replies = self._connection.recv()
                if isinstance(replies, tuple):
                    kind, words, _ = replies
                    said, status = (None, int(words)) if kind == GONE else (words, None)
                    break
                self._hand_out(replies)
        except (EOFError, OSError):
            pass
        error = self.death
        if error is None:  # else it was closed
            error = self.death = self._ended(said, status)
            self._outbox.put(None)
        for number in list(self._waiting):
            _tell(self._waiting.pop(number, None), error)

    def _hand_out(self, replies: list[tuple[int, Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Waiting, Any]]] = {}
        for number, reply in replies:
            waiting = self._waiting.pop(number)
            by_loop.setdefault(waiting[1], []).append((waiting, reply))
        for loop, given in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, given)

    def _ended(self, said: str | None, status: int | None) -> EngineDied:
        """Ends what is left of it, and says how it came to its end: by its own words, or by the
        status of the process that ended first, if that was another than the one started here."""
        self._connection.rest()
        if (stuck := self._connection.stuck) is not None:
            return EngineDied(stuck.words, by_others=stuck.stopped, blameless=stuck.stopped)
        if said is None and status is None:
            status = self._process.status(1.0)
        self._process.end()
        return death(
            said, status, self._process.stderr(), kernel_killed=kernel_kills() > self._kills
        )


def _thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, name="engine", daemon=True)
    thread.start()
    return thread


def _resolve(given: list[tuple[Waiting, Any]]) -> None:
    for (future, _), reply in given:
        if future.done():
            continue
        if isinstance(reply, tuple):
            future.set_exception(failure(reply))
        else:
            future.set_result(reply)


def _tell(waiting: Waiting | None, error: EngineError) -> None:
    if waiting is None:
        return
    future, loop = waiting

    def fail() -> None:
        if not future.done():
            future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
        loop.call_soon_threadsafe(fail)
