"""Ctrl-C ends a run in order, and a second one at once: nobody must wait who does not want to. So
does SIGTERM, by which schedulers and containers stop what they run.

At once means as if killed, which every run directory bears; but with a sentence.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from runner.notices import Event, Say, notice

AT_ONCE = (
    "ended at once; what is done is kept: the same command goes on, and books the paid calls that "
    "were under way"
)
STOPPING = "stopping; Ctrl-C again ends it at once"
_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_SHOW_CURSOR = "\x1b[?25h"


def end_at_once(signum: int, say: Say) -> NoReturn:
    """Ends this process with a sentence and nothing else; its courier sees to its own calls."""
    with suppress(Exception):  # whatever the signal came in the middle of
        say(notice(Event.ENDED_AT_ONCE, AT_ONCE))
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)  # a panel had hidden it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(128 + signum)


class Interrupts:
    """The handler of both signals while a run is at work. ``blocked``: its loop waits for something
    else, as a database, and would hear of nothing."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._task: asyncio.Task[None] | None = None
        self.heard = 0
        self.blocked = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.heard += 1
        if self.heard > 1:
            end_at_once(signum, self._say)
        if self.blocked or self._task is None or self._task.done():
            raise KeyboardInterrupt
        self._task.cancel()
        # Not said in here: a signal may come while the display says something.
        stopping = notice(Event.STOPPING, STOPPING)
        self._task.get_loop().call_soon_threadsafe(self._say, stopping)

    async def over(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.current_task()
        await work


def run_to_its_end(work: Coroutine[Any, Any, None], say: Say) -> None:
    """`asyncio.run`; a program with handlers of its own keeps them."""
    main = threading.current_thread() is threading.main_thread()
    usual = {one: how for one, how in _USUAL.items() if main and signal.getsignal(one) is how}
    if signal.SIGINT not in usual:
        asyncio.run(work)
        return
    interrupts = Interrupts(say)
    for one in usual:
        signal.signal(one, interrupts)
    try:
        asyncio.run(interrupts.over(work))
    except asyncio.CancelledError:
        if interrupts.heard:
            raise KeyboardInterrupt from None
        raise
    finally:
        for one, how in usual.items():
            signal.signal(one, how)


@contextmanager
def heard_while_blocked() -> Iterator[None]:
    """Either signal is heard within the block although the loop waits for it."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, Interrupts):
        yield
        return
    if handler.heard and not handler.blocked:  # and its task has not come to hear of it
        raise KeyboardInterrupt
    handler.blocked = True
    try:
        yield
    finally:
        handler.blocked = False
