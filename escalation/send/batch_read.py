"""Reads a batch's results and books each as it is read.

An answer is booked at once. Any other result is booked when all have been read: the same request
may have an answer further on, and one that is answered is never sent again. What has no result is
asked for again until a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from decimal import Decimal

from escalation.providers.batch_protocol import BatchApi, Remote
from escalation.providers.protocol import Reply
from escalation.send.batch_submit import MOST_ASKED, Desk
from runner.ledger import Batch

COMMIT_EVERY = 200
_ENDINGS = {
    "ok": "answered", "retry": "again", "halt": "halted", "reject": "refused", "unknown": "lost",
}  # fmt: skip
_WORDS = {
    "answered": "answered",
    "again": "not done, to be sent again",
    "halted": "not done, as the provider refuses them all",
    "refused": "refused",
    "lost": "lost",
    "left": "not there yet",
}
LOST_AFTER_S = 24 * 3600.0
"""A request without a result counts as lost after this time, however rarely it was polled."""


@dataclass(slots=True)
class _Open:
    """What of a batch has no result yet: attempt → (position, reservation). ``answered`` are the
    names of all that the results answer, ``others`` what is said of a request and is no answer;
    ``brought`` counts what was booked by verdict, ``back`` is what of their reservations was not
    spent."""

    left: dict[int, tuple[int, Decimal]]
    answered: set[str] = field(default_factory=set)
    others: dict[int, Reply] = field(default_factory=dict)
    brought: Counter[str] = field(default_factory=Counter)
    back: Decimal = Decimal(0)

    def keep(self, attempt: int, reply: Reply) -> None:
        """Of two results that are no answer, the one that may be billed holds."""
        if attempt not in self.others or reply.verdict == "unknown":
            self.others[attempt] = reply


class Reader:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._ledger = desk.ledger

    async def bring(
        self, api: BatchApi, batch: Batch, remote: Remote, prefix: str
    ) -> dict[str, int]:
        """Books the results of an ended batch; returns how many requests ended in each way."""
        opened = self._open(batch)
        try:
            await self._read(api, remote, prefix, opened)
            await self._book_others(opened)
            if opened.left:
                self._ledger.batches.fell_short(batch.id)
                if rest := self._rest(batch, remote, opened):
                    self._book_all(rest, opened)
            if not opened.left:
                self._ledger.batches.close(batch.id, "collected")
        finally:
            await self._done(batch, opened)
        return {
            **{ending: opened.brought[verdict] for verdict, ending in _ENDINGS.items()},
            "left": len(opened.left),
        }

    async def lose(self, batch: Batch, problem: str) -> tuple[int, Decimal]:
        """Books all requests without a result as lost, since they may be billed; returns their
        number and the amount reserved for them."""
        opened = self._open(batch)
        usd = sum((reserved for _, reserved in opened.left.values()), Decimal(0))
        count = len(opened.left)
        self._book_all(Reply("unknown", problem=problem), opened)
        self._ledger.batches.close(batch.id, "given_up", problem)
        await self._done(batch, opened)
        return count, usd

    def _open(self, batch: Batch) -> _Open:
        rows = self._ledger.attempts.open_in(batch.id)
        return _Open({attempt: (position, worst) for attempt, position, worst in rows})

    async def _read(self, api: BatchApi, remote: Remote, prefix: str, opened: _Open) -> None:
        attempts = {f"{prefix}{attempt}": attempt for attempt in opened.left}
        read = 0
        async with aclosing(api.results(remote)) as results:
            async for name, reply in results:
                if name.startswith(prefix) and reply.verdict == "ok":
                    opened.answered.add(name)
                if name in attempts and reply.verdict == "ok":
                    await self._book_answer(attempts[name], reply, opened)
                elif name in attempts:
                    opened.keep(attempts[name], reply)
                read += 1
                await self._breathe(read)

    async def _book_others(self, opened: _Open) -> None:
        for booked, (attempt, reply) in enumerate(opened.others.items(), start=1):
            self._book(attempt, reply, opened)
            await self._breathe(booked)

    async def _breathe(self, done: int) -> None:
        """Lets others have their turn, now and then."""
        if done % COMMIT_EVERY == 0:
            self._ledger.commit()
            await asyncio.sleep(0)

    def _rest(self, batch: Batch, remote: Remote, opened: _Open) -> Reply | None:
        """What all is that has no result; None: it may still come."""
        undone = remote.stopped and remote.answered == len(opened.answered)
        since = time.time() - batch.ended_at if batch.ended_at is not None else 0.0
        late = batch.short + 1 >= MOST_ASKED and since > self._desk.patience_s
        # Where there are no files at all, they may be late, and the count with them.
        if undone and (remote.files or late):
            return Reply("retry", problem="not done before its batch was stopped")
        if late or since > LOST_AFTER_S:
            return Reply("unknown", problem="the provider has no result for it")
        return None

    def _book_all(self, reply: Reply, opened: _Open) -> None:
        for attempt in list(opened.left):
            self._book(attempt, reply, opened)

    async def _book_answer(self, attempt: int, reply: Reply, opened: _Open) -> None:
        """What is put back is found in a thread: a text may be long, and nothing is to wait."""
        position = opened.left.get(attempt, (None, None))[0]
        held = self._ledger.held(position) if position is not None else None
        if position is None or held is None:
            self._book(attempt, reply, opened)
            return
        known = self._desk.booker.placeholders
        redactor = self._desk.closed.redactor
        with suppress(Exception):  # whatever it is, booking meets it again, and bears it
            known[position] = await asyncio.to_thread(redactor.placeholders, held.record)
        self._book(attempt, reply, opened)
        known.pop(position, None)

    def _book(self, attempt: int, reply: Reply, opened: _Open) -> None:
        """One result; a second one for the same request is none."""
        position, reserved = opened.left.pop(attempt, (None, None))
        if position is None or reserved is None:
            return
        opened.brought[reply.verdict] += 1
        held = self._ledger.held(position)
        booked = self._desk.booker.settle(held, attempt, reply, reserved, batched=True)
        opened.back += reserved - booked.cost
        if reply.verdict in ("retry", "halt"):
            self._desk.again(position, reply)

    async def _done(self, batch: Batch, opened: _Open) -> None:
        self._ledger.commit()
        self._desk.asker.budget.refund(opened.back)
        if not opened.left and self._desk.day is not None:
            cost = self._ledger.batches.cost(batch.id)[1]
            await self._desk.day.settle_batch(batch.id, cost or Decimal(0))


def in_words(ended: Mapping[str, int]) -> str:
    """What `Reader.bring` gives, for a person."""
    parts = [f"{count:,} {_WORDS[ending]}" for ending, count in ended.items() if count]
    return ", ".join(parts) or "nothing new"
