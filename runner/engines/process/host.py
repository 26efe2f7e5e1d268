"""The process that an engine lives in: ``python -m runner.engines.process.host FD SECONDS``.

It is `runner.engines.process.child`'s other end. Where the run is gone, this process goes too, and
takes along whatever processes the engine has started: they are of its group. Every so many seconds
it gives a sign of life. An engine that is to be kept
stays, and serves one run after the other, until none has come for so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from runner.engines.process.pulse import Heart
from runner.engines.process.warm_host import Keeper
from runner.engines.process.wire import GONE, KINDS, RELEASE, Asks, Kind, Ready, Reply, told
from runner.errors import RecordError, UsageError
from runner.types import Engine, Prompt, Sampling

WATCH_S = 0.5
Inbox = queue.SimpleQueue[Any]


def main() -> None:
    beat_s = float(sys.argv[2])
    heart = Heart(Connection(int(sys.argv[1])), beat_s)
    os.dup2(2, 1)  # stdout is for what the run prints there
    # What the libraries make while they are imported stays: to look through it again and again for
    # garbage is a fifth of the import.
    gc.disable()
    sys.path[:] = heart.recv()
    ahead: Callable[[], object] | None = heart.recv()
    inbox = _heard(heart)
    if ahead is not None:
        with contextlib.suppress(Exception):  # it comes again, and is told, when the engine is made
            ahead()
    gc.freeze()
    make, keep = inbox.get()
    keeper: Keeper | None = None
    try:
        keeper = Keeper.claim(keep) if keep is not None else None
        engine: Engine = make()
    except BaseException as error:
        if keeper is not None:
            keeper.close()  # before the run hears of it, and ends this process
        heart.send(told(error))
    else:
        gc.freeze()
        gc.enable()
        _children.extend(active_children())
        asyncio.run(_serve(engine, heart, inbox, keeper, beat_s))
    if keeper is not None:
        keeper.close()
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


async def _serve(
    engine: Engine, heart: Heart, inbox: Inbox, keeper: Keeper | None, beat_s: float
) -> None:
    """One run after the other, where the engine is kept."""
    if keeper is not None:
        _keepers.append(keeper)
    ready = Ready(engine.window, getattr(engine, "asks_for", ""), os.getpid(), bool(keeper))
    while True:
        host = _Host(engine, heart)
        host.send(ready)
        released = await host.serve(inbox)
        if keeper is None or not released:
            return
        if (renew := getattr(engine, "renew", None)) is not None:
            await renew()
        heart.close()  # the run waits for it
        following = await keeper.wait(lambda: _ended_child() is not None)
        if following is None:
            return
        heart = Heart(following, beat_s)
        inbox = _heard(heart)


def _heard(heart: Heart) -> Inbox:
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heart, inbox), daemon=True).start()
    return inbox


def _listen(heart: Heart, inbox: Inbox) -> None:
    try:
        while (asks := heart.recv()) != RELEASE:
            inbox.put(asks)
            if asks is None:
                return
    except (EOFError, OSError):
        pass
    if not _keepers:
        os.killpg(0, signal.SIGKILL)
    _keepers[0].release()
    inbox.put(RELEASE)


_keepers: list[Keeper] = []


def _ended_child() -> int | None:
    """The exit status of an engine's own process that has ended, if one has."""
    codes = (process.exitcode for process in _children)
    return next((code for code in codes if code is not None), None)


_children: list[BaseProcess] = []


class _Host:
    def __init__(self, engine: Engine, heart: Heart) -> None:
        self._engine = engine
        self._heart = heart
        self._kinds: dict[int, Kind] = {}
        self._replies: list[Reply] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._released = self._died = False

    async def serve(self, inbox: Inbox) -> bool:
        """Answers a run until it is through; whether the engine is free for another then."""
        loop = asyncio.get_running_loop()

        def hand_on() -> None:
            while isinstance(asks := inbox.get(), list):
                loop.call_soon_threadsafe(self._begin, asks)
            self._released = asks == RELEASE
            loop.call_soon_threadsafe(self._over.set)

        threading.Thread(target=hand_on, daemon=True).start()
        watch = asyncio.create_task(self._watch())
        await self._over.wait()
        watch.cancel()
        for task in self._tasks:
            task.cancel()
        if self._released and not self._died:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            return True
        # Taking a big library apart takes seconds; only processes of its own are to be let go.
        if _children:
            await self._engine.aclose()
        return False

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
        self._died = True
        self._flush()
        status = _ended_child()
        if status is not None:
            self.send((GONE, str(status), ""))
        elif error is not None:
            self.send(told(error))
        self._over.set()

    async def _watch(self) -> None:
        """vLLM may wait for its engine core for ever, where that one's own workers live on."""
        while _ended_child() is None:
            await asyncio.sleep(WATCH_S)
        self._die(None)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        self.send(replies)

    def send(self, what: object) -> None:
        with contextlib.suppress(OSError):  # the run is gone: `_listen` sees to that
            self._heart.send(what)


if __name__ == "__main__":
    main()
