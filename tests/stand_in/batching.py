"""What the batches of all APIs have in common: how long one takes, and what its parts come to.

A batch ends once: at a look at it (a retrieve or a list), or by the clock where nobody looks. Its
parts are worked on then, one group after the other, and billed in one write.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .api import Answer, Work
from .bill import Bill
from .fates import Fates
from .faults import Fault
from .problems import Problem


@dataclass(slots=True)
class Part:
    custom_id: str
    raw: str  # its request, to the byte
    marker: str
    state: str = "processing"  # then: succeeded, errored, canceled or expired
    fate: str | None = None
    answer: Answer | None = None
    problem: Problem | None = None


@dataclass(slots=True, kw_only=True)
class Batch:
    id: str
    parts: list[Part]
    fate: str | None = None  # of the whole batch
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)
    looks: int = 0
    lists: int = 0
    cancelled: datetime | None = None
    ended: datetime | None = None
    more: dict[str, Any] = field(default_factory=dict)  # what one API alone keeps

    def count(self, *states: str) -> int:
        """While the batch goes on, all of its parts do."""
        if self.ended is None:
            return len(self.parts) if "processing" in states else 0
        return sum(part.state in states for part in self.parts)


class Batching:
    """The settings, read at each look: a test may change them while a batch is under way."""

    def __init__(self, errors: list[Exception]) -> None:
        self.seconds = 0.0  # how long a batch takes; with no polls, 0 is over before the first look
        self.polls = 0  # how many retrieves and lists still see it in progress
        self.at_once = 4  # parts side by side: none of them reads what another one caches
        self.under_way = 0  # parts of a cancelled or an expired batch that are done all the same
        self.list_lag_calls = 0  # lists that do not show a new batch yet
        self.list_lag_s = 0.0  # the same by the clock
        self.shuffled = True
        self.archived = False  # Claude: the results of what has ended are gone
        self.parts = Fates()
        self.errors = errors
        self.desks: list[Desk] = []
        self._fates: list[str] = []

    def push(self, *fates: str) -> None:
        """Of the next batches, one each: "expire", or "fail" (OpenAI's validation)."""
        if unknown := set(fates) - {"expire", "fail"}:
            raise KeyError(f"no such fates of a batch: {sorted(unknown)}")
        self._fates += fates

    def next_fate(self, known: Collection[str]) -> str | None:
        for place, fate in enumerate(self._fates):
            if fate in known:
                return self._fates.pop(place)
        return None

    def close(self) -> None:
        """What has begun is finished, and billed, when the stand-in stops."""
        for desk in self.desks:
            desk.tend(lambda batch: True)


class Desk(ABC):
    """The batches of one API."""

    endpoint: str  # of the parts, on the bill
    prefix: str  # of a batch's id
    fates: tuple[str, ...] = ("expire",)

    def __init__(self, settings: Batching, bill: Bill) -> None:
        self.settings = settings
        self.bill = bill
        self.batches: dict[str, Batch] = {}
        settings.desks.append(self)

    @abstractmethod
    def begin(self, part: Part) -> Work:
        """Raises Problem; the answer has the price of a batch."""

    def closed(self, batch: Batch) -> None:
        """What an API still does when a batch has just ended."""
        return None

    def open(self, parts: list[Part], **more: Any) -> Batch:
        id = f"{self.prefix}{secrets.token_hex(12)}"
        batch = Batch(id=id, parts=parts, fate=self.settings.next_fate(self.fates), more=more)
        self.batches[id] = batch
        return batch

    def start(self, batch: Batch) -> None:
        """After the reply is made up, which shows a new batch however short it is."""
        self.bill.parts_received(
            self.endpoint,
            ((f"{batch.id}/{part.custom_id}", part.marker, part.raw) for part in batch.parts),
        )
        if self.settings.seconds <= 0:
            self.tend(self._is_over)
        else:
            self._wake(self.settings.seconds)

    def find(self, id: str) -> Batch:
        if (batch := self.batches.get(id)) is None:
            raise Problem(404, "not_found_error", f"No batch found with id '{id}'.")
        return batch

    def look(self, batch: Batch) -> Batch:
        batch.looks += 1
        if batch.ended is None and not self._waits(batch) and batch.looks > self.settings.polls:
            self._end(batch)
        return batch

    def listed(self) -> list[Batch]:
        """Newest first, each looked at."""
        shown = []
        for batch in reversed(self.batches.values()):
            batch.lists += 1
            age = time.monotonic() - batch.began
            if batch.lists > self.settings.list_lag_calls and age >= self.settings.list_lag_s:
                shown.append(self.look(batch))
        return shown

    def cancel(self, batch: Batch) -> None:
        batch.cancelled = batch.cancelled or datetime.now(UTC)
        self._wake(0.0)

    def tend(self, over: Callable[[Batch], bool]) -> None:
        """By the clock: nobody sees what goes wrong here, so it is kept for the test."""
        for batch in list(self.batches.values()):
            try:
                if batch.ended is None and over(batch):
                    self._end(batch)
            except Exception as error:
                self.settings.errors.append(error)

    def _wake(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.tend, self._is_over)

    def _is_over(self, batch: Batch) -> bool:
        return not self._waits(batch) and batch.looks >= self.settings.polls

    def _waits(self, batch: Batch) -> bool:
        goes_on = batch.cancelled is None
        return goes_on and time.monotonic() < batch.began + self.settings.seconds

    def _end(self, batch: Batch) -> None:
        stopped = "canceled" if batch.cancelled else "expired" if batch.fate == "expire" else None
        reach = self.settings.under_way if stopped else len(batch.parts)
        step = max(1, self.settings.at_once)
        for at in range(0, reach, step):
            self._work(batch.parts[at : min(at + step, reach)])
        for part in batch.parts[reach:]:
            part.state = stopped or part.state
        batch.ended = datetime.now(UTC)
        self.bill.parts_done(_entry(batch, part) for part in batch.parts)
        self.closed(batch)

    def _work(self, parts: Sequence[Part]) -> None:
        begun: list[tuple[Part, Fault | None, Work]] = []
        for part in parts:
            fate = self.settings.parts.meet(part.custom_id, part.raw)
            part.fate = fate.name if fate else None
            try:
                work = self.begin(part)
                if fate is not None and fate.problem is not None:
                    raise fate.problem
            except Problem as problem:
                part.state, part.problem = "errored", problem
                continue
            if fate is not None and not fate.works:
                part.state = fate.name
            else:
                begun.append((part, fate, work))
        for part, fate, work in begun:
            part.state, part.answer = "succeeded", work.finish(fate)


def _entry(batch: Batch, part: Part) -> dict[str, Any]:
    status = {"succeeded": 200, "errored": part.problem.status if part.problem else None}
    return {
        "id": f"{batch.id}/{part.custom_id}",
        "status": status.get(part.state),
        "fault": part.fate or (part.state if part.state in ("canceled", "expired") else None),
        "usd": part.answer.price if part.answer else 0,
        "model": part.answer.model if part.answer else None,
        "usage": part.answer.usage if part.answer else None,
    }
