"""An engine that does something odd once, for processes of its own: few imports, so that it starts
quickly."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from runner.types import Completion, Prompt, Sampling

VALUES = ("lost_card", "card_arrival")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold() -> None:
    """Native code that does nothing and holds Python's lock."""
    ctypes.PyDLL(None).sleep(600)


def work(seconds: float) -> None:
    """Native code that works and holds Python's lock, in one call."""
    began, turns = time.monotonic(), 5_000_000
    sum(range(turns))
    sum(range(int(turns * seconds / (time.monotonic() - began))))


def stop_core() -> None:
    """Stops a process that the engine has started: see `Odd`."""


class Odd:
    """Answers, but does something odd once: while it loads, or at the eleventh record."""

    asks_for = "a cup of memory"

    def __init__(
        self, mark: Path, loading: Callable[[], None] | None, asked: Callable[[], None] | None
    ) -> None:
        self.window, self._mark, self._asked = 4, mark, asked
        self._core = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        if asked is stop_core:
            self._core.start()
        if loading is not None and self._first():
            loading()

    def _first(self) -> bool:
        try:
            self._mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        text = prompt.messages[-1].content
        name = "".join(re.findall("<(.+)>", text))
        if self._asked is not None and name == "R-010" and self._first():
            if self._asked is stop_core:
                os.kill(self._core.pid or 0, signal.SIGSTOP)
                await asyncio.sleep(600)
            self._asked()
        value = f'{{"intent": "{VALUES[sum(map(ord, name)) % 2]}"}}'
        return Completion(value, "small", "stop", (value,), (-0.001,))

    async def aclose(self) -> None:
        return None
