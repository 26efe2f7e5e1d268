"""A run: every record through route → render → generate → check → decide, each with a row.

Records are read lazily and bounded by the engine's window; whatever needs no model is settled on
the spot. What is to be escalated is written down as waiting and worked off beside the local half
by `escalation.send.escalate.Escalator`, so the two overlap and neither waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from escalation.limits.local_guard import Guard
from escalation.send.closed_side import Sender
from escalation.send.escalate import Escalator
from escalation.send.local_fallback import Division, let_stand
from runner.errors import RunDirError
from runner.ledger import Ledger
from runner.pipeline.answer import LocalHalf
from runner.pipeline.decide import Decider, Rules, digest_of
from runner.pipeline.outcomes import Case
from runner.pipeline.progress import Progress as Progress
from runner.types import Reason, Record, Status

# How many records pass without a model before other work (replies, the display) gets a turn.
BREATH = 64


class Pipeline:
    """One run over one ledger. The engine is loaded when the first record needs it."""

    def __init__(
        self,
        ledger: Ledger,
        half: LocalHalf,
        rules: Rules,
        progress: Progress,
        guard: Guard | None = None,
    ) -> None:
        self._ledger = ledger
        self._half = half
        self._rules = rules
        self._guard = guard
        self.progress = progress
        self._more = asyncio.Event()
        self._local_done = False
        self._decider = Decider(ledger, half, rules, guard, progress.count, self._more.set)

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
            raise first_of(group) from None
        finally:
            with contextlib.suppress(Exception):
                self.progress.slowest.keep(self._ledger)
                self._ledger.commit()
            await self._half.aclose()
        if escalator is not None and escalator.stopped is not None:
            self._ledger.explain_waiting(escalator.stopped)
        for outcome in let_stand(self._ledger, Reason.AUDIT):
            self.progress.resettle(outcome)
        self._ledger.commit()

    async def _divide_the_rest(self, escalator: Escalator | None, sender: Sender | None) -> None:
        """Divides what those without a usable local answer left. Those never chosen keep their
        local answer; where something else than the cap ended the sending, they wait."""
        if self._rules.division is None or escalator is None:
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
                digest = digest_of(record.given)
                if self._already(record, digest):
                    continue
                case = self._decider.without_model(record, digest)
                if case is None:
                    continue
                if slots is None:
                    with self.progress.loading_model():
                        await self._half.load(self._rules.monitor.say)
                    slots = asyncio.Semaphore(self._half.window)
                await slots.acquire()
                self._decider.begin(case)
                tasks.create_task(self._with_model(case, slots))
        self._local_done = True
        self._more.set()

    async def _with_model(self, case: Case, slots: asyncio.Semaphore) -> None:
        try:
            local = await self._decider.with_model(case)
            if local is not None:
                self.progress.answered(case.record, local)
        finally:
            slots.release()

    def _already(self, record: Record, digest: str) -> bool:
        """Whether the record has its outcome; a broken one that was fixed since gets another."""
        known = self._ledger.known(record.position)
        if known is None:
            return False
        same = (known.record_id, known.digest) == (record.id, digest)
        if same and known.mistake in (None, self._decider.mistake(record)):
            self.progress.resumed += 1
            return True
        if known.status is Status.ERROR:
            self._ledger.forget(record.position)
            return False
        raise RunDirError(
            f"the records changed while they were read: line {record.line} is now {record.id}, and "
            f"was {known.record_id} or had other values; run the same command again"
        )


def first_of(group: BaseException) -> BaseException:
    """What went wrong first, of a group that may hold groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
