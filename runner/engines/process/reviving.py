"""An engine that is started again when it dies, and finds out which requests it dies of.

A request in flight at a death is simply sent again, with the same seed, to the next engine. Where
memory was the cause, that one asks for less. Who is sent when, after a death, is decided by
`runner.engines.process.suspects`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from runner.engines.process.death import lacks_memory
from runner.engines.process.suspects import Asked, Suspects
from runner.errors import EngineDied, EngineError, RecordError, UsageError
from runner.notices import Event, Notice, Say, UntilHeard, notice
from runner.types import Completion, Engine, Message, Prompt, Reason, Sampling

MOST_BARREN = 3
"""So many deaths in a row that brought neither an answer nor a suspect nearer end the run; twice
as many where others killed it."""
MOST_CONDEMNED = 3
"""So many requests found deadly in a row, and nothing answered between: it is not the requests."""
MOST_DEATHS, WITHIN_S = 30, 600.0
MOST_THRIFT = 4
PAUSE_S = 2.0

_PROBE = Prompt((Message("user", "Say hello."),))
_PROBE_SAMPLING = Sampling(max_tokens=1)
_KEPT = "what was answered is kept, and the same command goes on from there"


class Mortal(Engine, Protocol):
    """An engine that can die. ``asks_for``: the memory that it takes, in words."""

    asks_for: str

    @property
    def death(self) -> EngineError | None: ...


class Reviving:
    """Starts the engine at once; not for a thread in which an event loop runs.

    Args:
        start: loads an engine; its argument is how often memory was short so far.
        pause_s: before another try, where the last one brought nothing.
        abandon: ends what is being loaded, for whom nobody waits any more.

    Raises:
        EngineError, UsageError: it cannot be loaded.
    """

    def __init__(
        self,
        start: Callable[[int], Mortal],
        pause_s: float = PAUSE_S,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._start, self._abandon = start, abandon
        self._coming: Mortal | None = None
        self._pause_s = pause_s
        self._tell = UntilHeard()
        self._thrift, self._most_thrift = 0, MOST_THRIFT
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._died_times = 0
        self._barren: list[EngineDied] = []
        self._suspects = Suspects()
        self._condemned: list[Asked] = []
        self._flying: set[Asked] = set()
        self._held: set[Asked] = set()
        self._live = 0
        self._revival: asyncio.Task[None] | None = None
        self._failed: EngineError | None = None
        self._closing = False
        self._engine = self._first()
        self.window = self._engine.window

    def hear(self, say: Say) -> None:
        """Who is told of deaths from now on, and of those so far."""
        self._tell.hear(say)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        asked = Asked()
        self._live += 1
        try:
            while True:
                await self._turn(asked)
                engine = self._engine
                self._flying.add(asked)
                try:
                    completion = await engine.generate(prompt, sampling)
                except EngineDied as death:
                    self._died(engine, death)
                except RecordError:
                    self._answered()
                    raise
                else:
                    self._answered()
                    return completion
        finally:
            self._live -= 1
            self._flying.discard(asked)
            self._suspects.gone(asked)
            self._advance()

    async def aclose(self) -> None:
        self._closing = True
        if self._revival is not None:
            self._abandon()
            if self._coming is not None:
                await self._coming.aclose()
            await asyncio.wait([self._revival])
        await self._engine.aclose()

    # --- whose turn it is ---

    async def _turn(self, asked: Asked) -> None:
        """Waits until this request may be sent.

        Raises:
            RecordError: it is set aside.
            EngineError: the engine is given up.
        """
        while True:
            if self._failed is not None:
                raise self._failed
            if asked.verdict is not None and asked not in self._condemned:
                raise asked.verdict
            if self._revival is None and isinstance(self._engine.death, EngineDied):
                self._died(self._engine, self._engine.death)  # with nothing in flight
            waits = self._revival is not None or asked in self._condemned
            if not waits and (not self._suspects or asked in self._suspects.now):
                return
            asked.turn = asyncio.get_running_loop().create_future()
            self._held.add(asked)
            try:
                await asked.turn
            finally:
                self._held.discard(asked)

    def _advance(self) -> None:
        """Lets those go whose turn has come."""
        if self._revival is not None:
            return
        if len(self._condemned) == self._live:
            self._release()  # nothing else is there that could be answered
        self._suspects.next_group()
        for asked in list(self._held):
            if asked in self._condemned:
                continue
            if not self._suspects or asked in self._suspects.now:
                _wake(asked)

    def _answered(self) -> None:
        self._barren.clear()
        self._release()

    def _release(self) -> None:
        """The engine is well, so it is they who killed it."""
        condemned, self._condemned = self._condemned, []
        for asked in condemned:
            _wake(asked)

    # --- death, and the next engine ---

    def _died(self, engine: Mortal, death: EngineDied) -> None:
        """The first request that finds it dead sees to another."""
        if engine is not self._engine or self._revival is not None or self._failed is not None:
            return
        culprit, nearer = self._suspects.died(
            self._flying, by_others=death.by_others, blameless=death.blameless
        )
        if nearer:
            self._barren.clear()
        if culprit is not None:
            self._condemn(culprit, death)
        flying = len(self._flying)
        self._flying.clear()
        self._revival = asyncio.get_running_loop().create_task(self._revive(death, flying))

    def _condemn(self, asked: Asked, death: EngineDied) -> None:
        asked.verdict = RecordError(
            f"the local engine died again and again with this record alone ({death}); shorten or "
            "fix it, or give it another route",
            Reason.ENGINE_DIED,
        )
        self._condemned.append(asked)

    async def _revive(self, death: EngineDied, flying: int) -> None:
        try:
            if len(self._condemned) >= MOST_CONDEMNED:
                raise EngineError(
                    f"the engine died of {MOST_CONDEMNED} records in a row, each sent alone "
                    f"({death}): the fault is most likely its own; {_KEPT}"
                )
            await asyncio.to_thread(self._start_again, death, flying)
        except Exception as error:  # whatever it is, nobody may go on waiting
            self._failed = EngineError(str(error) or repr(error))
            for asked in list(self._held):
                _wake(asked)
        finally:
            self._revival = None
        self._advance()

    def _first(self) -> Mortal:
        try:
            engine = self._start(self._thrift)
        except EngineDied as death:
            return self._next(death, 0)
        if note := getattr(engine, "note", ""):
            self._tell(notice(Event.WARNING, note))
        return engine

    def _start_again(self, death: EngineDied, flying: int) -> None:
        asyncio.run(self._engine.aclose())
        self._engine = self._next(death, flying)

    def _next(self, death: EngineDied, flying: int) -> Mortal:
        """Another engine, that has answered something; in a thread of its own."""
        while True:
            self._note(death)
            before = self._thrift
            if death.lacked_memory:
                self._thrift = min(self._thrift + 1, self._most_thrift)
            self._tell(self._told(death, flying, less=self._thrift > before))
            time.sleep(self._pause_s * (len(self._barren) - 1))
            try:
                engine = self._start(self._thrift)
                if self._thrift > before:
                    said = f"the engine asks for less memory now: {engine.asks_for}"
                    self._tell(notice(Event.LESS_MEMORY, said, asks_for=engine.asks_for))
                self._coming = engine
                asyncio.run(_probe(engine))
                return engine
            except EngineDied as again:
                death = again
            except EngineError as error:
                death = EngineDied(str(error), lacked_memory=lacks_memory(str(error)))
                if self._thrift and not death.lacked_memory:
                    # So little that it does not load.
                    self._thrift = self._most_thrift = self._thrift - 1

    def _note(self, death: EngineDied) -> None:
        """Raises `EngineError` where it is enough."""
        now = time.monotonic()
        self._deaths.append(now)
        self._died_times += 1
        self._barren.append(death)
        if self._closing:
            raise EngineError("the engine was closed")
        if sum(1 if each.by_others else 2 for each in self._barren) >= 2 * MOST_BARREN:
            raise EngineError(
                f"the engine died {len(self._barren)} times in a row without an answer between, at "
                f"last because {_cause(death)}; {_KEPT}"
            )
        if len(self._deaths) == MOST_DEATHS and now - self._deaths[0] < WITHIN_S:
            raise EngineError(
                f"the engine died {MOST_DEATHS} times within {WITHIN_S / 60:.0f} minutes, at last "
                f"because {_cause(death)}; {_KEPT}"
            )

    def _told(self, death: EngineDied, flying: int, *, less: bool) -> Notice:
        with_less = " with less memory" if less else ""
        again = f", and what was in flight ({flying}) is asked again" if flying else ""
        return notice(
            Event.ENGINE_DIED,
            f"the engine died ({_cause(death)}): it is started again{with_less}{again}",
            problem=_cause(death), deaths=self._died_times, in_flight=flying,
            lacked_memory=death.lacked_memory,
        )  # fmt: skip


def _cause(death: EngineDied) -> str:
    return str(death).rstrip(".")


def _wake(asked: Asked) -> None:
    if asked.turn is not None and not asked.turn.done():
        asked.turn.set_result(None)


async def _probe(engine: Mortal) -> None:
    """Whether it answers at all: were that left to the records, they would seem to kill it."""
    try:
        await engine.generate(_PROBE, _PROBE_SAMPLING)
    except (RecordError, UsageError):
        return  # it is well enough to refuse
    except EngineError:
        await engine.aclose()
        raise
