"""The local half: a record → its prompt, the local model's answer, and what that is worth.

Runs, calibrations, quotes and the server all answer by this one object. Who wants to see it at
work, to trace or to time it, is its `Observer`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from escalation.certify.scorer import Scorer, Signals, with_looks
from escalation.policy import Acceptance, Routed, Rule, decide
from runner.answering.check import Checker
from runner.answering.extra_signals import Found, Looks
from runner.answering.prompts import Renderer
from runner.types import Answer, Completion, Engine, Prompt, Record, Sampling, Say, frozen


@frozen
class LocalAnswer:
    """``seconds``: from handing the prompt to the engine until the whole answer was there.
    ``found``: what further looks found, None where none was taken; they took ``looks_s``, and
    ``changed`` says whether they changed the decision."""

    prompt: Prompt
    answer: Answer
    seconds: float = 0.0
    found: Found | None = None
    looks_s: float = 0.0
    changed: bool = False

    @property
    def text(self) -> str:
        """The prompt's last message."""
        return self.prompt.messages[-1].content


class Observer:
    """Watches the steps of records' way, and does nothing about them. A step is open as long as
    its block; what it came to is told to the function that the block is given."""

    def load(self) -> AbstractContextManager[object]:
        return _UNTOLD

    def route(self) -> AbstractContextManager[Callable[[Routed], None]]:
        return _UNTOLD

    def generate(self, sampling: Sampling) -> AbstractContextManager[Callable[[Completion], None]]:
        """Each request to the engine, further looks' too."""
        return _UNTOLD

    def check(self) -> AbstractContextManager[Callable[[Answer], None]]:
        return _UNTOLD

    def decide(self) -> AbstractContextManager[object]:
        return _UNTOLD

    def answered(self, record: Record, local: LocalAnswer) -> None:
        """Hears of each answer as it is decided on."""


def _untold(found: object) -> None:
    return None


_UNTOLD = nullcontext(_untold)
UNOBSERVED = Observer()


@dataclass(slots=True)
class LocalHalf:
    """Renders, generates, checks and scores. Begin with `load`, unless no record needs the model,
    and end with `aclose`. It is an engine itself, and further looks ask it."""

    renderer: Renderer
    checker: Checker
    sampling: Sampling
    scorer: Scorer
    looks: Looks | None
    load_engine: Callable[[Say], Engine]
    """The argument hears of the engine's deaths."""
    observer: Observer = UNOBSERVED
    _engine: Engine | None = field(default=None, init=False)

    async def load(self, say: Say) -> None:
        """Loads the engine; ``say`` hears of its deaths.

        Raises:
            UsageError, EngineError: it cannot be used.
        """
        self._engine = await asyncio.to_thread(self._loaded, say)

    def _loaded(self, say: Say) -> Engine:
        with self.observer.load():
            return self.load_engine(say)

    @property
    def window(self) -> int:
        """How many prompts the engine takes at once; 0 before it is loaded."""
        return self._engine.window if self._engine is not None else 0

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._engine.aclose()

    async def answer(self, record: Record, rule: Rule, *, look: bool | None = None) -> LocalAnswer:
        """The answer with its score. ``look``: whether further looks are taken at it; None: where
        they can still change what ``rule`` makes of it.

        Raises:
            RecordError: this record has no answer.
            EngineError: no record will have one.
        """
        prompt, accepts = self.renderer.render(record), rule.of(record)
        began = time.monotonic()
        completion = await self.generate(prompt, prompt.sampling(self.sampling))
        seconds = time.monotonic() - began
        with self.observer.check() as told:
            answer = self.checker.check(completion)
            told(answer)
        signals: Signals = {}
        if self.scorer.calibration is not None:
            signals = self.scorer.signals(answer, prompt.messages[-1].content, record.id)
            answer = self.scorer.scored(answer, signals)
        local = LocalAnswer(prompt, answer, seconds)
        if self.looks is not None and self._worth_looks(answer, signals, accepts, look):
            local = await self._looked(self.looks, record, local, accepts, signals)
        self.observer.answered(record, local)
        return local

    def _worth_looks(
        self, answer: Answer, signals: Signals, accepts: Acceptance, look: bool | None
    ) -> bool:
        if look is not None:
            return look and answer.valid
        always = self.looks is not None and self.looks.always
        return self.scorer.open_to_looks(signals, accepts.threshold, always=always)

    async def _looked(
        self,
        looks: Looks,
        record: Record,
        local: LocalAnswer,
        accepts: Acceptance,
        signals: Signals,
    ) -> LocalAnswer:
        began = time.monotonic()
        found = await looks.take(self, record, local.prompt, local.answer)
        looked = self.scorer.scored(local.answer, with_looks(signals, found))
        before, after = (
            decide(one, accepts, may_leave=True).accept for one in (local.answer, looked)
        )
        looks_s = time.monotonic() - began
        return replace(local, answer=looked, found=found, looks_s=looks_s, changed=before != after)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """One request to the engine."""
        assert self._engine is not None
        with self.observer.generate(sampling) as told:
            completion = await self._engine.generate(prompt, sampling)
            told(completion)
        return completion
