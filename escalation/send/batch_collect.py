"""Collects the results of batches, in this process or a later one, and finds lost batches.

Each result is booked as it is read, so after a truncated body or a kill the results are only read
again. A batch is closed once each of its requests has a result. A problem with one batch does not
affect the others: they are collected, and new ones are sent.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)

from escalation.providers.batch_protocol import LATEST_S, BatchApi, CallFailed, Lost, Remote
from escalation.providers.protocol import Reply
from escalation.send.batch_read import Reader, in_words
from escalation.send.batch_submit import BatchSender, Desk
from escalation.send.lanes import Lanes
from runner.errors import SureLocalError, UsageError
from runner.formats.foreign_json import one_line
from runner.ledger import Batch
from runner.types import Event, Level, Reason, notice

TRIES = 3
ABSENT = 2
"""How many complete searches must miss a lost batch before it counts as never created."""
T = TypeVar("T")


class Collector:
    def __init__(self, desk: Desk, lanes: Lanes, sender: BatchSender) -> None:
        self._ledger = desk.ledger
        self._settings = desk.closed.settings
        self._desk = desk
        self._halt = desk.halt
        self._lanes = lanes
        self._sender = sender
        self._reader = Reader(desk)
        self._cancelled: set[int] = set()
        self._troubled: dict[int, float] = {}
        self._stuck: set[int] = set()
        self._said: dict[int, str] = {}

    async def collect(self, api: BatchApi) -> None:
        """Checks every open batch once."""
        opened = self._ledger.batches.open()
        for batch in opened:
            try:
                await self._ask_about(api, batch)
            except CallFailed as error:
                if error.reply.verdict == "halt":
                    self._stuck.update(one.id for one in opened)
                    self._halt.now(Reason.PROVIDER_HALTED, error.reply.problem)
                    return
                self._trouble(batch, error.reply.problem or "it cannot be asked about")
            except SureLocalError:
                raise  # the disk, or the spend file
            except Exception as error:
                self._trouble(batch, one_line(f"{type(error).__name__}: {error}"))
            else:
                self._troubled.pop(batch.id, None)
                self._stuck.discard(batch.id)

    def rescue(self) -> None:
        """A former version could end a call and fail over its answer: the record still waited for
        its batch, and nothing would ever come."""
        for position in self._ledger.batches.orphans():
            held = self._ledger.held(position)
            if held is not None:
                lost = Reply("unknown", problem="its answer came, and could not be booked")
                self._desk.booker.to_review(held, lost)
        self._ledger.commit()

    def to_come(self) -> bool:
        """Whether a batch is open that is worth waiting for."""
        return any(batch.id not in self._stuck for batch in self._ledger.batches.open())

    async def give_up(self, name: str) -> None:
        """Stops waiting for a batch, given its id or number. Its requests without a result may be
        billed, so they count as spent, and their records go to review.

        Raises:
            UsageError: no such batch is open.
        """
        opened = self._ledger.batches.open()
        for batch in opened:
            if name in (batch.remote_id, str(batch.id)):
                left, usd = await self._reader.lose(batch, "its batch was given up")
                said = f"given up, {left:,} requests count as paid"
                self._say(batch, Event.BATCH_GIVEN_UP, said, lost=left, lost_usd=usd)
                return
        listed = ", ".join(f"{batch.remote_id or batch.id}" for batch in opened)
        raise UsageError(
            f"--give-up: no batch {one_line(name, 80)} is open here; "
            + (f"open are: {listed}" if listed else "none is")
        )

    async def _ask_about(self, api: BatchApi, batch: Batch) -> None:
        remote_id = batch.remote_id or await self._search(api, batch)
        if remote_id is None:
            return
        remote = await self._patiently(lambda: api.look(remote_id))
        if remote.problem is not None:
            reply = Reply("reject", problem=remote.problem)
            await self._sender.release(batch, reply, self._desk.again)
            said = f"the provider did none of it: {remote.problem}"
            self._say(batch, Event.BATCH_REFUSED, said, problem=remote.problem)
        elif remote.ended:
            prefix = self._sender.prefix(batch.id)
            ended = await self._reader.bring(api, batch, remote, prefix)
            level = Level.WARNING if ended["lost"] or ended["halted"] else None
            self._say(batch, Event.BATCH, in_words(ended), level, state="ended", **ended)
        else:
            await self._goes_on(api, batch, remote)

    async def _goes_on(self, api: BatchApi, batch: Batch, remote: Remote) -> None:
        if self._lanes.cut_off() and batch.id not in self._cancelled:
            await self._patiently(lambda: api.cancel(remote.id))
            self._cancelled.add(batch.id)
            said = "cancelled, what is left of it is asked live"
            self._say(batch, Event.BATCH, said, state="cancelled")
        if remote.odd is not None:
            raise _trouble(f"its status is {remote.odd or 'not said'}, which is unknown")
        if time.time() - batch.begun_at > LATEST_S:
            raise _trouble("it should have ended long ago")

    async def _search(self, api: BatchApi, batch: Batch) -> str | None:
        """The id of a batch that may have been created; None if it was not, or is not found yet."""
        known = frozenset(self._ledger.batches.remote_ids())
        lost = Lost(self._sender.prefix(batch.id), batch.begun_at, known)
        found = await self._patiently(lambda: api.find(lost))
        waited = time.time() - batch.begun_at
        if found.id is not None:
            self._ledger.batches.sent(batch.id, found.id)
            said = f"batch {found.id}: found again, of {batch.requests:,} requests"
            facts = self._desk.facts(batch.id, found.id, batch.requests)
            self._desk.say(notice(Event.BATCH, said, state="found", **facts))
        elif found.undecided is not None:
            raise _trouble(f"it is unclear whether it was created: {found.undecided}")
        elif found.running:
            said = "whether it was made can be told once others of its time have ended"
            self._say(batch, Event.MONEY_UNCLEAR, said)
            if waited > LATEST_S:
                raise _trouble("others of its time should have ended long ago")
        elif waited > self._settings.batch.listed_within_s:
            self._ledger.batches.missed(batch.id)
            if batch.short + 1 >= ABSENT:
                reply = Reply("retry", problem="its batch was never made")
                await self._sender.release(batch, reply, self._desk.again)
            self._ledger.commit()
        return found.id

    def _trouble(self, batch: Batch, problem: str) -> None:
        self._ledger.commit()
        now = time.monotonic()
        if now - self._troubled.setdefault(batch.id, now) <= self._desk.patience_s:
            said = f"{problem}; it will be asked about again"
            self._say(batch, Event.BATCH_TROUBLE, said, problem=problem)
            return
        self._stuck.add(batch.id)
        self._say(
            batch,
            Event.BATCH_STUCK,
            f"{problem}; it is not waited for any longer. A later `surelocal escalate RUN_DIR` "
            f"asks again; `--give-up {batch.remote_id or batch.id}` gives it up, so that what may "
            "be billed stays spent and its records go to review",
            problem=problem,
        )

    def _say(
        self, batch: Batch, event: Event, text: str, level: Level | None = None, **fields: Any
    ) -> None:
        """Says each text about a batch only once."""
        if self._said.get(batch.id) != text:
            self._said[batch.id] = text
            fields |= self._desk.facts(batch.id, batch.remote_id, batch.requests)
            self._desk.say(notice(event, f"{_named(batch)}: {text}", level, **fields))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """A call that may be made again, since it costs nothing."""
        trying = AsyncRetrying(
            retry=retry_if_exception_type(CallFailed),
            stop=stop_after_attempt(TRIES) | stop_after_delay(self._settings.timeout_s),
            wait=wait_exponential(multiplier=min(0.2, self._settings.batch.poll_s), max=5),
            reraise=True,
        )
        async for attempt in trying:
            with attempt:
                return await call()
        raise AssertionError("it either returned or raised")


def _trouble(problem: str) -> CallFailed:
    return CallFailed(Reply("unknown", problem=problem))


def _named(batch: Batch) -> str:
    return f"batch {batch.remote_id or f'{batch.id} of {batch.requests:,} requests'}"
