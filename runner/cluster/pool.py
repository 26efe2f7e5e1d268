"""Many replicas as one engine: each request goes to the one with the most room.

Every replica is a `Reviving` of its own: one that dies is started again wherever there is room.
What was in flight in one that was killed from outside goes to the others at once, but each request
once only. What one that died of itself had waits for its successor: a record that kills
engines would go through the cluster like a fire. Where there is no room for a successor (its node
is gone), the others take over after `PATIENCE_S`, and it joins them again when there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from runner.engines.process.reviving import PAUSE_S, Mortal, Reviving
from runner.errors import EngineDied, EngineError, RunFailed, SureLocalError
from runner.notices import Event, Notice, Say, UntilHeard, notice
from runner.types import Completion, Prompt, Sampling

FIRST_PATIENCE_S, PATIENCE_S = 300.0, 60.0
"""So long the run waits for a place for its first replica, and a dead one's requests for one for
its successor."""


class NoPlace(RunFailed):
    """No node has room for a replica. Not an `EngineError`: another try would bring no more."""


@dataclass(frozen=True, slots=True)
class Starting:
    """How long a replica may wait for a place, and whether it is still wanted."""

    patience_s: float
    is_closing: Callable[[], bool]


Start = Callable[[Starting, int], Mortal]
"""Starts a replica; the number is how often memory was short so far."""


@dataclass(slots=True, eq=False)
class _Flight:
    """A request in a replica. ``cancelling``: how often its task was being cancelled before."""

    task: asyncio.Task[Any]
    may_move: bool
    cancelling: int
    moved: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """One replica and its successors. ``over``: why there are no more."""

    number: int
    engine: Reviving | None = None
    mortal: Mortal | None = None
    flights: set[_Flight] = field(default_factory=set)
    flying: int = 0
    is_starting: bool = True
    lacks_place: bool = False
    over: Exception | None = None
    leaving: set[asyncio.Task[None]] = field(default_factory=set)


class Pool:
    """Starts the replicas at once and goes on with the first; the others join as they come. Not
    for a thread in which an event loop runs.

    Args:
        start: what starts one replica.
        replicas: so many.
        first: what is told first.
        after: done when all are closed.

    Raises:
        EngineError, UsageError: none of them can be loaded.
    """

    def __init__(
        self,
        start: Start,
        replicas: int,
        first: Sequence[Notice] = (),
        after: Callable[[], None] = lambda: None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._start, self._pause_s, self._after = start, pause_s, after
        self._heard = UntilHeard(*first)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[asyncio.Future[None], asyncio.AbstractEventLoop]] = deque()
        self._closing = False
        self._lanes = [_Lane(number) for number in range(1, replicas + 1)]
        self._threads = [self._bring_up(lane) for lane in self._lanes]
        self.window = replicas * self._first_window()

    def _first_window(self) -> int:
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._ready() or self._all_over())
                if ready := self._ready():
                    return ready[0][1].window
        except BaseException:
            self._closing = True
            raise
        raise self._why_over()

    def hear(self, say: Say) -> None:
        """Who is told of deaths from now on, and of those so far."""
        self._heard.hear(say)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        task = asyncio.current_task()
        assert task is not None
        may_move = True
        while True:
            lane, engine = await self._lane()
            flight = _Flight(task, may_move, task.cancelling())
            lane.flights.add(flight)
            try:
                return await engine.generate(prompt, sampling)
            except EngineError as error:
                if self._closing:
                    raise
                self._lost(lane, engine, error)
            except asyncio.CancelledError:
                if not flight.moved or task.uncancel() > flight.cancelling:
                    raise  # it was not `_move`, or not it alone
                may_move = False
            finally:
                lane.flights.discard(flight)
                lane.flying -= 1
                self._wake(1)

    async def aclose(self) -> None:
        self._closing = True
        engines = [lane.engine for lane in self._lanes if lane.engine is not None]
        leaving = [task for lane in self._lanes for task in lane.leaving]
        await asyncio.gather(*(engine.aclose() for engine in engines), *leaving)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._after()

    # --- whose turn it is, and where ---

    async def _lane(self) -> tuple[_Lane, Reviving]:
        """A place in the replica with the most room.

        Raises:
            EngineError: there is no replica any more, nor will there be.
        """
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                roomy = [each for each in self._ready() if each[0].flying < each[1].window]
                if roomy:
                    lane, engine = min(roomy, key=lambda each: each[0].flying)
                    lane.flying += 1
                    return lane, engine
                if self._all_over():
                    raise self._why_over()
                turn: asyncio.Future[None] = loop.create_future()
                self._waiting.append((turn, loop))
            try:
                await turn
            except asyncio.CancelledError:
                self._wake(1)  # perhaps it had come, and is another's then
                raise

    def _ready(self) -> list[tuple[_Lane, Reviving]]:
        return [(e, e.engine) for e in self._lanes if e.engine is not None and not e.is_starting]

    def _all_over(self) -> bool:
        return all(lane.over is not None for lane in self._lanes)

    def _why_over(self) -> Exception:
        return next(lane.over for lane in self._lanes if lane.over is not None)

    def _wake(self, count: int | None = None) -> None:
        """Lets so many look again, or all."""
        with self._changed:
            self._changed.notify_all()
            count = len(self._waiting) if count is None else min(count, len(self._waiting))
            woken = [self._waiting.popleft() for _ in range(count)]
        for turn, loop in woken:
            _in(loop, partial(_go, turn))

    # --- a replica's beginning and end ---

    def _bring_up(self, lane: _Lane) -> threading.Thread:
        lane.is_starting, lane.lacks_place = True, False
        thread = threading.Thread(target=self._load, args=(lane,), name="replica", daemon=True)
        thread.start()
        return thread

    def _load(self, lane: _Lane) -> None:
        """A thread. While another is there, it waits for a place for ever."""
        while lane.engine is None and lane.over is None:
            try:
                engine = Reviving(partial(self._started, lane), self._pause_s)
            except Exception as error:  # whatever it is, nobody may go on waiting
                if not (isinstance(error, NoPlace) and self._ready() and not self._closing):
                    self._give_up(lane, error)
            else:
                engine.hear(partial(self._tell, lane))
                lane.engine = engine
        self._wake()

    def _started(self, lane: _Lane, thrift: int) -> Mortal:
        patience_s = FIRST_PATIENCE_S if lane.engine is None else PATIENCE_S
        lane.is_starting = True
        death = lane.mortal.death if lane.mortal is not None else None
        if isinstance(death, EngineDied) and death.by_others:
            self._move(lane)
        try:
            lane.mortal = self._start(Starting(patience_s, lambda: self._closing), thrift)
            return lane.mortal
        except NoPlace:
            lane.lacks_place = True
            raise
        finally:
            lane.is_starting = False
            if lane.engine is not None:
                self._wake()

    def _move(self, lane: _Lane) -> None:
        """Lets those that were in flight there, and may, look for another place."""

        def move(flight: _Flight) -> None:
            # Once: where a replica dies again before the task has run, a second cancellation would
            # be taken for the run's own, and its record would have no end.
            if flight in lane.flights and not flight.moved and self._ready():
                flight.moved = True
                flight.task.cancel()

        for flight in [each for each in lane.flights.copy() if each.may_move]:
            _in(flight.task.get_loop(), partial(move, flight))

    def _lost(self, lane: _Lane, engine: Reviving | None, error: EngineError) -> None:
        """The first of its requests that comes back sees to the rest."""
        if engine is None or lane.engine is not engine:
            return
        lane.engine = None
        task = asyncio.get_running_loop().create_task(engine.aclose())
        lane.leaving.add(task)
        task.add_done_callback(lane.leaving.discard)
        if lane.lacks_place:
            said = f"{error}; the others go on, and it joins them when there is room"
            self._tell(lane, notice(Event.REPLICA_WAITS, said, problem=str(error)))
            self._threads.append(self._bring_up(lane))
        else:
            self._give_up(lane, error)
        self._wake()

    def _give_up(self, lane: _Lane, error: Exception) -> None:
        lane.over = error if isinstance(error, SureLocalError) else EngineError(repr(error))
        if not self._closing and not self._all_over():
            said = f"it is given up, the others go on ({error})"
            self._tell(lane, notice(Event.REPLICA_GIVEN_UP, said, problem=str(error)))

    def _tell(self, lane: _Lane, told: Notice) -> None:
        text = f"replica {lane.number}: {told}"
        fields = {**told.fields, "replica": lane.number}
        self._heard(replace(told, text=text, fields=fields))


def _in(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(do)


def _go(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
