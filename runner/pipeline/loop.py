"""A run: every record through route → render → generate → check → decide, each with a row.

Records are read lazily and bounded by the engine's window; whatever needs no model is settled on
the spot. What is to be escalated is written down as waiting and worked off beside the local half
by `escalation.send.escalate.Escalator`, so the two overlap and neither waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from escalation.certify.scorer import Judge, Signals, with_looks
from escalation.limits.local_guard import Guard
from escalation.policy import Acceptance, Routed, Router, decide
from escalation.send.closed_side import Sender
from escalation.send.escalate import Escalator
from escalation.send.local_fallback import Division, let_stand
from runner.answering.check import Checker
from runner.answering.extra_signals import Looks
from runner.answering.prompts import Renderer
from runner.errors import RecordError, RunDirError
from runner.job import digest
from runner.ledger import Ledger
from runner.pipeline.certificate_monitor import Say, Watch
from runner.pipeline.outcomes import Settling, Stakes
from runner.pipeline.progress import Progress as Progress
from runner.types import Answer, Engine, Prompt, Reason, Record, Route, Sampling, Status

# How many records pass without a model before other work (replies, the display) gets a turn.
BREATH = 64
DIGEST_LENGTH = 16

Estimate = Callable[[Prompt, int], Decimal]
"""(prompt, output tokens) → what the closed model would cost for it, in US dollars."""


@dataclass(frozen=True, slots=True)
class Answering:
    """The local half: all that turns a record into an answer and a decision. ``division``: the
    budget is divided over the whole batch instead of by a threshold."""

    router: Router
    renderer: Renderer
    checker: Checker
    sampling: Sampling
    judge: Judge
    looks: Looks | None
    division: Stakes | None
    estimate: Estimate
    engine: Callable[[Say], Engine]
    """Loads it; the argument hears of its deaths."""
    can_escalate: bool
    too_long: str = "error"
    """`runner.job.local.Local.too_long`."""


class Pipeline:
    """One run over one ledger. ``engine`` is loaded when the first record needs it."""

    def __init__(
        self,
        ledger: Ledger,
        answering: Answering,
        watch: Watch,
        progress: Progress,
        guard: Guard | None = None,
    ) -> None:
        self._ledger = ledger
        self._do = answering
        self._watch = watch
        self._guard = guard
        self.progress = progress
        self._engine: Engine | None = None
        self._flying: dict[str, int] = {}
        self._more = asyncio.Event()
        self._local_done = False
        self._settling = Settling(
            ledger, progress.count, self._more.set, watch, guard,
            can_escalate=answering.can_escalate, division=answering.division,
        )  # fmt: skip

    async def run(
        self, records: Iterable[Record], escalator: Escalator | None, sender: Sender | None
    ) -> None:
        """Brings every record to an outcome.

        Raises:
            RunFailed: the engine or the ledger gave out; what was recorded before is kept.
            RunDirError: the records are not those that this run directory knows.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._local_half(records))
                if escalator is not None:
                    tasks.create_task(escalator.drain(sender, self._more, lambda: self._local_done))
            await self._divide_the_rest(escalator, sender)
            self._ledger.commit()  # not below, where nobody would hear that it failed
        except ExceptionGroup as group:
            raise _first(group) from None
        finally:
            with contextlib.suppress(Exception):
                self.progress.slowest.keep(self._ledger)
                self._ledger.commit()
            if self._engine is not None:
                await self._engine.aclose()
        if escalator is not None and escalator.stopped is not None:
            self._ledger.explain_waiting(escalator.stopped)
        for outcome in let_stand(self._ledger, Reason.AUDIT):
            self.progress.resettle(outcome)
        self._ledger.commit()

    async def _divide_the_rest(self, escalator: Escalator | None, sender: Sender | None) -> None:
        """Divides what those without a usable local answer left. Those never chosen keep their
        local answer; where something else than the cap ended the sending, they wait."""
        if self._do.division is None or escalator is None:
            return
        if self._guard is not None and self._guard.tripped:
            self._guard.hold(undivided=True)
            return
        division = Division(self._ledger)
        while escalator.stopped is None and division.choose(escalator.money_left()):
            await escalator.drain(sender, self._more, lambda: True)
        # What a batch does not cost after all is still to be divided.
        if escalator.stopped in (None, Reason.BUDGET) and not self._ledger.batches.open():
            for outcome in let_stand(self._ledger, Reason.EXPECTED_LOSS):
                self.progress.resettle(outcome)

    async def _local_half(self, records: Iterable[Record]) -> None:
        slots: asyncio.Semaphore | None = None
        async with asyncio.TaskGroup() as tasks:
            for record in self._ledger.places.numbered(records):
                self.progress.seen += 1
                if self.progress.seen % BREATH == 0:
                    await asyncio.sleep(0)
                mark = digest(dict(record.given))[:DIGEST_LENGTH]
                if self._already(record, mark):
                    continue
                routed = self._without_model(record, mark)
                if routed is None:
                    continue
                if slots is None:
                    self._engine = await self._load()
                    slots = asyncio.Semaphore(self._engine.window)
                await slots.acquire()
                self._flying[record.id] = record.position
                tasks.create_task(self._with_model(record, mark, routed, slots))
        self._local_done = True
        self._more.set()

    async def _load(self) -> Engine:
        self.progress.loading = True
        engine = await asyncio.to_thread(self._do.engine, self._watch.say)
        self.progress.loading = False
        self.progress.generating_since = time.monotonic()
        return engine

    def _already(self, record: Record, mark: str) -> bool:
        """Whether the record has its outcome; a broken one that was mended since gets another."""
        known = self._ledger.known(record.position)
        if known is None:
            return False
        same = (known.record_id, known.digest) == (record.id, mark)
        if same and known.mistake in (None, self._mistake(record)):
            self.progress.resumed += 1
            return True
        if known.status is Status.ERROR:
            self._ledger.forget(record.position)
            return False
        raise RunDirError(
            f"the records changed while they were read: line {record.line} is now {record.id}, and "
            f"was {known.record_id} or had other values; run the same command again"
        )

    def _mistake(self, record: Record) -> str | None:
        """Why it is no record of its own."""
        if record.problem is not None:
            return record.problem
        if record.id in self._flying or self._ledger.is_double(record.id, record.position):
            return f"line {record.line}: the id {record.id} is already another record's"
        return None

    def _without_model(self, record: Record, mark: str) -> Routed | None:
        """Settles a record that needs no model; otherwise says how it was routed."""
        if mistake := self._mistake(record):
            self._settling.failed(record, mark, mistake, Reason.BAD_RECORD)
            return None
        try:
            routed = self._do.router.route(record)
            if routed.route is Route.LOCAL:
                return routed
            # Only what is to be sent must make a prompt; a person may have what makes none.
            sent = routed.route is Route.CLOSED
            prompt = self._do.renderer.render(record) if sent else None
        except RecordError as error:
            self._settling.failed(record, mark, str(error), error.reason)
            return None
        if routed.route is Route.TEMPLATE:
            self._settling.by_template(record, mark, routed, self._estimate(record))
        elif routed.route is Route.CLOSED:
            self._settling.route_closed(record, mark, routed, self._cost(prompt))
        else:
            self._settling.set_aside(record, mark, routed, self._estimate(record))
        return None

    async def _with_model(
        self, record: Record, mark: str, routed: Routed, slots: asyncio.Semaphore
    ) -> None:
        assert self._engine is not None
        try:
            prompt = self._do.renderer.render(record)
            rule = self._watch.rule.of(record)
            began = time.monotonic()
            completion = await self._engine.generate(prompt, prompt.sampling(self._do.sampling))
            self.progress.slowest.saw(record.position, time.monotonic() - began)
            self.progress.generated_tokens += completion.usage.output_tokens
            answer = self._do.checker.check(completion)
            answer = await self._judged(self._engine, record, prompt, answer, rule)
            cost = self._cost(prompt, answer.output_tokens)
            self._settling.answered(record, mark, answer, routed, cost)
        except RecordError as error:
            if error.reason is Reason.TOO_LONG and (to := self._do.too_long) != "error":
                self._settling.too_long(record, mark, routed, self._estimate(record), to)
            else:
                self._settling.failed(record, mark, str(error), error.reason)
        finally:
            del self._flying[record.id]
            slots.release()

    async def _judged(
        self, engine: Engine, record: Record, prompt: Prompt, answer: Answer, rule: Acceptance
    ) -> Answer:
        """The answer with its score, after the looks that can still matter to it."""
        judge, looks = self._do.judge, self._do.looks
        if judge.calibration is None:
            self._watch.saw(record, answer)
            return answer
        signals = judge.signals(answer, prompt.messages[-1].content, record.id)
        judged = judge.judged(answer, signals)
        self._watch.saw(record, judged)
        if looks and judge.open_to_looks(signals, rule.threshold, always=looks.always):
            return await self._looked(engine, record, prompt, judged, rule, signals)
        return judged

    async def _looked(
        self,
        engine: Engine,
        record: Record,
        prompt: Prompt,
        answer: Answer,
        rule: Acceptance,
        signals: Signals,
    ) -> Answer:
        assert self._do.looks is not None
        began = time.monotonic()
        found = await self._do.looks.take(engine, record, prompt, answer)
        looked = self._do.judge.judged(answer, with_looks(signals, found))
        before, after = (decide(a, rule, may_leave=True).accept for a in (answer, looked))
        self.progress.looked += 1
        self.progress.looks_changed += before != after
        self.progress.looks_s += time.monotonic() - began
        return looked

    def _estimate(self, record: Record) -> Decimal:
        if not self._do.can_escalate:
            return Decimal(0)
        try:
            return self._cost(self._do.renderer.render(record))
        except RecordError:
            return Decimal(0)

    def _cost(self, prompt: Prompt | None, output_tokens: int = 0) -> Decimal:
        return self._do.estimate(prompt, output_tokens) if prompt is not None else Decimal(0)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
