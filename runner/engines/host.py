"""The process that an engine lives in: ``python -m runner.engines.host FD``.

It is `runner.engines.child`'s other end. Where the run is gone, this process goes too, and takes
along whatever processes the engine has started: they are of its group.
"""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from runner.errors import EngineError, LocalFirstError, RecordError, UsageError
from runner.types import Constraint, Engine, Message, Prompt, Sampling

Kind = tuple[Constraint, Sampling]
Ask = tuple[int, tuple[Message, ...], int, Kind | None]
"""(number, messages, the kind's number, and the kind itself where it is new)."""
Asks = list[Ask]
KINDS = 8
"""So many of the latest kinds are remembered at both ends."""
GONE = "gone"
"""The kind of failure where one of the engine's processes has ended; its status is the sentence."""
WATCH_S = 0.5
Reply = tuple[int, Any]
"""(number, a completion, or a failure as `told` gives it)."""


def told(error: BaseException) -> tuple[str, str, str]:
    """An error as (kind, sentence, reason): not every one of ours survives pickling."""
    if isinstance(error, RecordError):
        return "record", str(error), str(error.reason)
    if isinstance(error, UsageError):
        return "usage", str(error), ""
    if isinstance(error, LocalFirstError):
        return "engine", str(error), ""
    traceback.print_exception(error)
    return "engine", f"{type(error).__name__}: {error}".splitlines()[0], ""


def main() -> None:
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    os.dup2(2, 1)  # stdout is for what the run prints there
    sys.path[:] = connection.recv()
    make: Callable[[], Engine] = connection.recv()
    inbox: queue.SimpleQueue[Asks | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    try:
        engine = make()
    except BaseException as error:
        connection.send(told(error))
        return
    _children.extend(active_children())
    connection.send((engine.window, getattr(engine, "asks_for", "")))
    asyncio.run(_Host(engine, connection).serve(inbox))
    os._exit(0)


def _listen(connection: Connection[Any, Any], inbox: queue.SimpleQueue[Asks | None]) -> None:
    try:
        while True:
            asks = connection.recv()
            inbox.put(asks)
            if asks is None:
                return
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def _ended_child() -> int | None:
    """The exit status of an engine's own process that has ended, if one has."""
    codes = (process.exitcode for process in _children)
    return next((code for code in codes if code is not None), None)


_children: list[BaseProcess] = []


class _Host:
    def __init__(self, engine: Engine, connection: Connection[Any, Any]) -> None:
        self._engine = engine
        self._connection = connection
        self._kinds: dict[int, Kind] = {}
        self._replies: list[Reply] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()

    async def serve(self, inbox: queue.SimpleQueue[Asks | None]) -> None:
        loop = asyncio.get_running_loop()

        def hand_on() -> None:
            while (asks := inbox.get()) is not None:
                loop.call_soon_threadsafe(self._begin, asks)
            loop.call_soon_threadsafe(self._over.set)

        threading.Thread(target=hand_on, daemon=True).start()
        watch = asyncio.create_task(self._watch())
        await self._over.wait()
        watch.cancel()
        for task in self._tasks:
            task.cancel()
        # Taking a big library apart takes seconds; only processes of its own are to be let go.
        if _children:
            await self._engine.aclose()

    def _begin(self, asks: Asks) -> None:
        for number, messages, kind, new in asks:
            if new is not None:
                self._kinds[kind] = new
                self._kinds.pop(kind - KINDS, None)
            constraint, sampling = self._kinds[kind]
            prompt = Prompt(messages, constraint)
            task = asyncio.create_task(self._answer(number, prompt, sampling))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, prompt: Prompt, sampling: Sampling) -> None:
        reply: Any
        try:
            reply = await self._engine.generate(prompt, sampling)
        except (RecordError, UsageError) as error:
            reply = told(error)
        except Exception as error:
            self._die(error)
            return
        # One message for all that the engine's step has brought.
        if not self._replies:
            asyncio.get_running_loop().call_soon(self._flush)
        self._replies.append((number, reply))

    def _die(self, error: Exception | None) -> None:
        if self._over.is_set():
            return
        self._flush()
        status = _ended_child()
        if status is not None:
            self._send((GONE, str(status), ""))
        elif error is not None:
            self._send(told(error))
        self._over.set()

    async def _watch(self) -> None:
        """vLLM may wait for its engine core for ever, where that one's own workers live on."""
        while _ended_child() is None:
            await asyncio.sleep(WATCH_S)
        self._die(None)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        self._send(replies)

    def _send(self, what: object) -> None:
        try:
            self._connection.send(what)
        except OSError:
            self._over.set()


def failure(reply: tuple[str, str, str]) -> LocalFirstError:
    """The error that `told` told of."""
    kind, said, reason = reply
    if kind == "record":
        return RecordError(said, reason)
    return UsageError(said) if kind == "usage" else EngineError(said)


if __name__ == "__main__":
    main()
