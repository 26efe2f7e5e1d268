"""What the batches of both APIs have in common: how long one takes, and what its parts come to.

A batch ends once: at its making, at a look at it (a retrieve or a list), or by the clock where
nobody looks. Its parts are worked on then, one after the other, and billed in one write.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from .api import Answer, Work
from .bill import Bill
from .faults import Faults, Problem, bad_request
from .wire import Call


@dataclass(slots=True)
class Part:
    custom_id: str
    raw: str  # its request, to the byte
    state: str = "processing"  # then: succeeded, errored, canceled or expired
    fate: str | None = None
    answer: Answer | None = None
    problem: Problem | None = None

    @property
    def status(self) -> int | None:
        return self.problem.status if self.problem else 200 if self.answer else None


@dataclass(slots=True, kw_only=True)
class Batch:
    id: str
    parts: list[Part]
    fate: str | None = None  # of the whole batch
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    looks: int = 0
    lists: int = 0
    cancelled: datetime | None = None
    ended: datetime | None = None
    more: dict[str, Any] = field(default_factory=dict)  # what one API alone keeps

    @property
    def age_s(self) -> float:
        return (datetime.now(UTC) - self.created).total_seconds()

    @property
    def expires(self) -> datetime:
        return self.created + timedelta(hours=24)

    def count(self, state: str) -> int:
        """While the batch goes on, all of its parts do."""
        if self.ended is None:
            return len(self.parts) if state == "processing" else 0
        return sum(part.state == state for part in self.parts)


class Batching:
    """The settings, read at each look: a test may change them while a batch is under way."""

    def __init__(self, faults: Faults) -> None:
        self.polls = 0  # how many retrieves and lists still see it in progress
        self.seconds = 0.0  # how long it takes; with no polls, 0 is over before the first look
        self.list_lag_calls = 0  # lists that do not show a new batch yet
        self.list_lag_s = 0.0  # the same by the clock
        self.faults = faults  # those of the endpoint "part" are met when a part's turn comes
        self.fates: list[str] = []
        self.desks: list[Desk] = []

    def push(self, fate: str) -> None:
        """Of the next batch as a whole: "expire", or "fail" (OpenAI's validation)."""
        self.fates.append(fate)


class Desk(ABC):
    """The batches of one API: four endpoints, and what their objects show."""

    endpoint: str  # of the parts, on the bill
    prefix: str  # of a batch's id
    after: str  # the name of a list's cursor
    most: int  # of a list

    def __init__(self, settings: Batching, bill: Bill, take: Callable[[str], Work]) -> None:
        self.settings = settings
        self.bill = bill
        self.take = take  # raises Problem; the answer has the price of a single call
        self.batches: dict[str, Batch] = {}
        settings.desks.append(self)

    @abstractmethod
    def show(self, batch: Batch, call: Call) -> dict[str, Any]: ...

    @abstractmethod
    def parts(self, call: Call) -> tuple[list[Part], dict[str, Any]]:
        """What a call to make a batch asks for, and what the API keeps of it. Raises Problem."""

    def closed(self, batch: Batch) -> None:
        """What an API still does when a batch has just ended."""
        return None

    def create(self, call: Call, _: str) -> Work:
        parts, more = self.parts(call)
        return lambda fault: Answer(self._open(call, parts, more))

    def retrieve(self, call: Call, id: str) -> Work:
        batch = self.find(id)
        return lambda fault: Answer(self.show(self._look(batch), call))

    def cancel(self, call: Call, id: str) -> Work:
        batch = self.find(id)
        if batch.ended is not None:
            raise bad_request(f"Batch {id} has ended and cannot be canceled.")

        def cancelled() -> Answer:
            batch.cancelled = batch.cancelled or datetime.now(UTC)
            return Answer(self.show(batch, call))

        return lambda fault: cancelled()

    def listing(self, call: Call, _: str) -> Work:
        limit, after = int(call.query.get("limit", 20)), call.query.get(self.after)
        if not 1 <= limit <= self.most:
            raise bad_request(f"limit: Input should be from 1 to {self.most}")
        if after is not None:
            self.find(after)

        def found() -> Answer:
            data = [self.show(batch, call) for batch in self._listed()]
            ids = [batch["id"] for batch in data]
            data = data[ids.index(after) + 1 if after in ids else 0 :]
            page = data[:limit]
            ends = [batch["id"] for batch in page] or [None]
            shown = {"object": "list", "data": page, "has_more": len(data) > limit}
            return Answer({**shown, "first_id": ends[0], "last_id": ends[-1]})

        return lambda fault: found()

    def find(self, id: str) -> Batch:
        if (batch := self.batches.get(id)) is None:
            raise Problem(404, "not_found_error", f"No batch found with id '{id}'.")
        return batch

    def finish(self) -> None:
        """What has begun is finished, and billed, when the stand-in stops."""
        for batch in self.batches.values():
            if batch.ended is None:
                self._end(batch)

    def _open(self, call: Call, parts: list[Part], more: dict[str, Any]) -> dict[str, Any]:
        fate = self.settings.fates.pop(0) if self.settings.fates else None
        if fate == "fail":
            parts = []
        batch = Batch(id=self.prefix + secrets.token_hex(12), parts=parts, fate=fate, more=more)
        self.batches[batch.id] = batch
        self.bill.parts_received(
            self.endpoint, ((f"{batch.id}/{part.custom_id}", part.raw) for part in parts)
        )
        shown = self.show(batch, call)  # a new batch is shown under way, however short it is
        if self.settings.seconds <= 0:
            self._tend(batch)
        else:  # it costs what it costs, whether or not somebody looks; a moment later, to be sure
            asyncio.get_running_loop().call_later(self.settings.seconds + 0.01, self._tend, batch)
        return shown

    def _look(self, batch: Batch) -> Batch:
        self._tend(batch)
        batch.looks += 1
        return batch

    def _tend(self, batch: Batch) -> None:
        over = batch.cancelled is not None or batch.age_s >= self.settings.seconds
        if batch.ended is None and over and batch.looks >= self.settings.polls:
            self._end(batch)

    def _listed(self) -> list[Batch]:
        """Newest first, each looked at."""
        shown = []
        for batch in reversed(self.batches.values()):
            batch.lists += 1
            settings = self.settings
            if batch.lists > settings.list_lag_calls and batch.age_s >= settings.list_lag_s:
                shown.append(self._look(batch))
        return shown

    def _end(self, batch: Batch) -> None:
        stopped = "canceled" if batch.cancelled else "expired" if batch.fate == "expire" else None
        for part in batch.parts:
            if stopped:
                part.state = part.fate = stopped
            else:
                self._work(part)
        batch.ended = datetime.now(UTC)
        ids = [f"{batch.id}/{part.custom_id}" for part in batch.parts]
        parts = zip(ids, batch.parts, strict=True)
        self.bill.done(*((id, part.status, part.fate, part.answer) for id, part in parts))
        self.closed(batch)

    def _work(self, part: Part) -> None:
        fate = self.settings.faults.meet("part", part.raw, part.custom_id)
        part.fate = fate.name if fate else None
        try:
            work = self.take(part.raw)
            if fate is not None and fate.problem is not None:
                raise fate.problem
        except Problem as problem:
            part.state, part.problem = "errored", problem
            return
        if fate is not None and not fate.works:
            part.state = fate.name
            return
        answer = work(fate)
        part.state, part.answer = "succeeded", replace(answer, usd=answer.usd / 2)
