"""One replica: an actor on some node, the engine in a process beside it, and their end here.

Requests and answers travel by the handful, whatever has come together meanwhile: a remote call for
each took 17 times the driver's time (docs/cluster.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import platform
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from runner import keys
from runner.cluster.nodes import Plan
from runner.cluster.pool import NoPlace, Starting
from runner.engines.process.child import ChildEngine
from runner.engines.process.death import lacks_memory
from runner.engines.process.pulse import USUAL, Ticking
from runner.engines.process.wire import failure, told
from runner.errors import EngineDied, EngineError, SureLocalError, UsageError
from runner.types import Completion, Engine, Prompt, Sampling

_POLL_S = 0.2
_DIED = "died"

Ask = tuple[int, Prompt, Sampling]
Failure = tuple[str, str, str]
Reply = tuple[int, Completion | Failure]


class Hosted:
    """The actor. Its engine is a child's, so that it can die by itself and say why."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._replies: list[Reply] = []
        self._some = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def where(self) -> tuple[str, str]:
        """The node's name, and the version of surelocal there."""
        return platform.node(), version()

    async def load(self, make: Callable[[], Engine]) -> tuple[int, str] | Failure:
        """The engine's window and its memory in words."""
        try:
            engine = await asyncio.to_thread(ChildEngine, make)
        except Exception as error:
            return _told(error)
        self._engine = engine
        return engine.window, engine.asks_for

    async def ask(self, asks: list[Ask]) -> None:
        for number, prompt, sampling in asks:
            task = asyncio.create_task(self._answer(number, prompt, sampling))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, prompt: Prompt, sampling: Sampling) -> None:
        assert self._engine is not None
        reply: Completion | Failure
        try:
            reply = await self._engine.generate(prompt, sampling)
        except Exception as error:
            reply = _told(error)
        self._replies.append((number, reply))
        self._some.set()

    async def replies(self) -> list[Reply]:
        """Waits for some, and gives all that are there; none, as a sign of life, after a while."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._some.wait(), USUAL.beat_s)
        await asyncio.sleep(0)  # what the same step of the engine has brought comes along
        self._some.clear()
        replies, self._replies = self._replies, []
        return replies


class Replica:
    """The end here: a mortal engine, as `runner.engines.process.child.ChildEngine` is one."""

    def __init__(self, actor: Any, window: int, asks_for: str) -> None:
        self._actor = actor
        self.window, self.asks_for = window, asks_for
        self.death: EngineError | None = None
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[asyncio.Future[Completion], asyncio.AbstractEventLoop]] = {}
        self._outbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        for run in (self._send, self._receive):
            threading.Thread(target=run, name="replica", daemon=True).start()

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
        self._end(EngineError("the engine was closed"))
        await asyncio.to_thread(end, self._actor)

    def _send(self) -> None:
        """A thread. A handful's constraint is one object, which pickle writes once."""
        over = False
        while not over:
            taken = [self._outbox.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    taken.append(self._outbox.get_nowait())
            over = None in taken
            if asks := [one for one in taken if one is not None]:
                with contextlib.suppress(RayError):  # it has died: `_receive` sees to that
                    self._actor.ask.remote(asks)

    def _receive(self) -> None:
        """A thread: hands out what comes back, and notes the death."""
        try:
            while self.death is None:
                self._hand_out(_heard(self._actor.replies.remote()))
        except Exception as error:  # whatever it is, nobody may go on waiting
            self._end(error if isinstance(error, EngineDied) else died(error))

    def _hand_out(self, replies: list[Reply]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Completion], Any]]] = {}
        death: EngineDied | None = None
        for number, reply in replies:
            given: Any = _error(reply) if isinstance(reply, tuple) else reply
            if isinstance(given, EngineDied):
                death = given
            elif waiting := self._waiting.pop(number, None):
                by_loop.setdefault(waiting[1], []).append((waiting[0], given))
        for loop, resolved in by_loop.items():
            _in(loop, partial(_resolve, resolved))
        if death is not None:
            self._end(death)

    def _end(self, error: EngineError) -> None:
        """Notes the death, the first time, and tells all that wait."""
        if self.death is None:
            self.death = error
            self._outbox.put(None)
        for number in list(self._waiting):
            if waiting := self._waiting.pop(number, None):
                _in(waiting[1], partial(_resolve, [(waiting[0], self.death)]))


class Replicas:
    """Starts replicas of one plan. ``make`` loads an engine, and travels to the node by pickle."""

    def __init__(self, plan: Plan, make: Callable[[int], Engine]) -> None:
        self._make = make
        self._actors = ray.remote(Hosted).options(
            num_cpus=plan.cpus,
            num_gpus=plan.gpus,
            # A cluster that this machine began has this machine's environment.
            runtime_env={"env_vars": dict.fromkeys(keys.withheld(), "")},
            max_restarts=0,  # `process.reviving` starts another, with less memory if need be
            scheduling_strategy="DEFAULT" if plan.gpus else "SPREAD",
        )

    def start(self, starting: Starting, thrift: int) -> Replica:
        """Waits for a place, then for the model to be loaded there.

        Raises:
            NoPlace: there was none for as long as ``starting`` has patience.
        """
        actor: Any = self._actors.remote()
        try:
            _host, theirs = _wait(actor.where.remote(), starting, starting.patience_s)
            if theirs != version():
                raise UsageError(
                    f"cluster: a node has surelocal {theirs}, and this machine {version()}; "
                    "install the same on all of them"
                )
            ready = _wait(actor.load.remote(partial(self._make, thrift)), starting, None)
            if len(ready) == 3:
                raise _error(ready)
        except BaseException as error:
            end(actor)
            if isinstance(error, RayError):
                raise died(error) from None
            raise
        return Replica(actor, *ready)


def _heard(ref: Any) -> list[Reply]:
    """What the actor has to say, or at least a sign of life.

    Raises:
        EngineDied: it gives none.
    """
    ticking, silent_s = Ticking(USUAL.tick_s), 0.0
    while silent_s < USUAL.silent_s:
        with contextlib.suppress(GetTimeoutError):
            replies: list[Reply] = ray.get(ref, timeout=USUAL.tick_s)
            return replies
        silent_s += ticking.passed()
    raise EngineDied(
        f"its actor gave no sign of life for {silent_s:.0f} s", by_others=True, blameless=True
    )


def _wait(ref: Any, starting: Starting, patience_s: float | None) -> Any:
    began = time.monotonic()
    while True:
        if starting.is_closing():
            raise NoPlace("the engine was closed")
        try:
            return ray.get(ref, timeout=_POLL_S)
        except GetTimeoutError:
            if patience_s is not None and time.monotonic() - began > patience_s:
                raise NoPlace(f"no node had room for it within {patience_s:.0f} s") from None


def end(actor: Any) -> None:
    with contextlib.suppress(Exception):  # it, or the whole cluster, is gone already
        ray.kill(actor)


def died(error: BaseException) -> EngineDied:
    """What Ray says of an actor's end, in a line."""
    said = str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    cause = next((line for line in lines if "died" in line or "killed" in line), "")
    memory = lacks_memory(said) or "low on memory" in said  # the latter is Ray's own watchdog
    words = cause or (lines[0] if lines else type(error).__name__)
    return EngineDied(f"its actor is gone: {words}", lacked_memory=memory, by_others=not memory)


def version() -> str:
    try:
        return importlib.metadata.version("surelocal")
    except importlib.metadata.PackageNotFoundError:
        return "of a folder"


def _told(error: Exception) -> Failure:
    if isinstance(error, EngineDied):
        causes = {
            "memory": error.lacked_memory,
            "others": error.by_others,
            "blameless": error.blameless,
        }
        return _DIED, str(error), " ".join(name for name, is_so in causes.items() if is_so)
    return told(error)


def _error(reply: Failure) -> SureLocalError:
    kind, said, causes = reply
    if kind == _DIED:
        return EngineDied(
            said,
            lacked_memory="memory" in causes,
            by_others="others" in causes,
            blameless="blameless" in causes,
        )
    return failure(reply)


def _resolve(given: list[tuple[asyncio.Future[Completion], Any]]) -> None:
    for future, reply in given:
        if future.done():
            continue
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)


def _in(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(do)
