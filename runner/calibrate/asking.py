"""A calibration's records → the local model's answers, by the local half of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from escalation.policy import Acceptance
from runner.calibrate.kept import Kept
from runner.errors import RecordError
from runner.pipeline.answer import LocalAnswer, LocalHalf
from runner.pipeline.loop import first_of
from runner.pipeline.progress import Progress
from runner.types import DecidedBy, Record, Say, Status

_ANY = Acceptance(None)
"""The looks do not wait for a threshold: there is none yet."""


class Asking:
    """``answers``: by position, of the records that have one."""

    def __init__(self, half: LocalHalf, kept: Kept, progress: Progress, say: Say) -> None:
        self.answers: dict[int, LocalAnswer] = {}
        self._half = half
        self._kept = kept
        self._progress = progress
        self._say = say

    async def ask(self, labelled: Sequence[Record], others: Sequence[Record]) -> None:
        """Asks about all of them, and looks further at the labelled ones; what is kept is asked
        for no more.

        Raises:
            UsageError, EngineError: the engine cannot be used, or gave out.
        """
        wanted = [(one, True) for one in labelled] + [(one, False) for one in others]
        left = [(one, look) for one, look in wanted if not self._taken_up(one, look)]
        try:
            if left:
                await self._ask(left)
        except ExceptionGroup as group:
            raise first_of(group) from None
        finally:
            await self._half.aclose()

    def _taken_up(self, record: Record, look: bool) -> bool:
        if not self._kept.has(record, look=look):
            return False
        self._progress.resumed += 1
        self._enter(record, self._kept.of(record, self._half.renderer))
        return True

    async def _ask(self, left: Sequence[tuple[Record, bool]]) -> None:
        with self._progress.loading_model():
            await self._half.load(self._say)
        slots = asyncio.Semaphore(self._half.window)
        async with asyncio.TaskGroup() as tasks:
            for record, look in left:
                self._progress.seen += 1
                await slots.acquire()
                tasks.create_task(self._one(record, look, slots))

    async def _one(self, record: Record, look: bool, slots: asyncio.Semaphore) -> None:
        local: LocalAnswer | None = None
        try:
            local = await self._half.answer(record, _ANY, look=look)
            self._progress.answered(record, local)
            self._progress.tally(DecidedBy.LOCAL)
        except RecordError:
            self._progress.tally(Status.ERROR)
        finally:
            slots.release()
        self._kept.add(record, local, look=look)
        self._enter(record, local)

    def _enter(self, record: Record, local: LocalAnswer | None) -> None:
        if local is not None:
            self.answers[record.position] = local
