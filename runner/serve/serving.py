"""A request through the pipeline: decided, settled in the ledger, and only then answered.

What waits is asked for at once, since somebody waits for it, and never later on this server's own
account: whoever got no answer may have gone elsewhere. It stays in the ledger, for the same request
under the same name or for `surelocal escalate`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from escalation.limits.budget import Budget
from escalation.send.closed_side import Sender
from escalation.send.escalate import Escalator
from escalation.send.local_fallback import STANDS, local_outcome
from escalation.send.session import PaidSession
from runner.ledger import Ledger
from runner.observe.tracing import Tracing
from runner.pipeline.answer import LocalHalf
from runner.pipeline.decide import Decider, Rules
from runner.pipeline.slowest import Slowest
from runner.serve.answered import Answered, Took, answered_as, paid_since
from runner.serve.intake import Asked
from runner.types import Event, Reason, Status, notice

Gone = Callable[[], Awaitable[bool]]
"""Whether the client that asked has gone."""

COMMIT_AFTER_S = 0.003
"""How long a settled answer waits for others: a commit costs as much for many as for one."""
COOL_DOWN_S = 15.0
"""After how long a stop of the sending is looked at again: a server has no next run."""
CLIENT_GONE = "client_gone"


class ClientGone(Exception):
    """Nobody waits for this answer, and nothing was begun for it."""


class Taken(Exception):
    """The record's id is another request's."""


class Serving:
    """Brings requests to their outcomes. Begin with `load`. ``heard`` is told of each settled
    request; ``queued`` is how many wait for the local model and for the closed one."""

    def __init__(
        self,
        ledger: Ledger,
        half: LocalHalf,
        rules: Rules,
        session: PaidSession | None,
        tracing: Tracing,
    ) -> None:
        self._ledger = ledger
        self._half = half
        self._monitor = rules.monitor
        self._session = session
        self._turns = asyncio.Semaphore(session.closed.settings.concurrency if session else 1)
        self._stopped_at: float | None = None
        self._stopping = False
        self._under_way: dict[str, tuple[str, asyncio.Task[Answered]]] = {}
        self._commit: asyncio.Task[None] | None = None
        self._took: dict[int, Took] = {}
        self._slowest = Slowest()
        self.tracing = tracing
        guard = session.escalator.guard if session is not None else None
        self._decider = Decider(ledger, half, rules, guard)
        self.heard: Callable[[Answered], None] = lambda answered: None
        self.queued = {"local": 0, "closed": 0}
        self._next = ledger.next_position()

    async def load(self) -> None:
        """Loads the engine.

        Raises:
            UsageError, EngineError: it cannot be used.
        """
        await self._half.load(self._monitor.say)
        self._slots = asyncio.Semaphore(self._half.window)

    def stop(self) -> None:
        """Nothing more is sent: requests that wait for their turn are answered at once, and those
        whose calls are under way when these have ended."""
        if self._stopping or self._session is None:
            return
        self._stopping = True
        self._session.escalator.stop()
        for _ in range(self.queued["closed"]):
            self._turns.release()

    async def aclose(self, within_s: float) -> None:
        """Once the last request that was begun is settled. None is waited for longer than its
        client would be: what it lacks is done when it is asked again."""
        deadline = time.monotonic() + within_s
        while self._under_way and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait([task for _, task in self._under_way.values()], timeout=left)
            await asyncio.sleep(0)
        if self._under_way:
            left = len(self._under_way)
            said = (
                f"{left:,} requests were not settled within {within_s:g} s, and are given up; the "
                "server does them when they are asked again"
            )
            facts = {"requests": left, "seconds": within_s}
            self._monitor.say(notice(Event.REQUESTS_GIVEN_UP, said, **facts))
            left_over = [task for _, task in self._under_way.values()]
            for task in left_over:
                task.cancel()
            await asyncio.wait(left_over, timeout=1.0)
        self._slowest.keep(self._ledger)
        await self._half.aclose()

    @property
    def window(self) -> int:
        return self._half.window

    @property
    def budget(self) -> Callable[[], Budget] | None:
        """Looks at the budget, where there is one."""
        session = self._session
        return None if session is None else lambda: session.escalator.budget

    @property
    def calibrated(self) -> bool:
        """Whether confidences are probabilities of being right."""
        return self._half.scorer.calibration is not None

    @property
    def stopped(self) -> Reason | None:
        """Why nothing is sent, where that is so."""
        if self._session is None:
            return None
        return Reason.NO_KEY if self._session.sender is None else self._session.escalator.stopped

    async def answer(self, asked: Asked, gone: Gone) -> Answered:
        """The answer, settled. Cut short, the work goes on and is settled all the same.

        Raises:
            ClientGone: the client went before anything was begun.
            Taken: another request has this record's id.
            RunFailed: the engine or the ledger gave out.
        """
        known = self._under_way.get(asked.id)
        if known is not None and known[0] != asked.mark:
            raise Taken(asked.id)
        if known is not None:
            return await asyncio.shield(known[1])
        task = asyncio.create_task(self._answer(asked, gone))
        self._under_way[asked.id] = (asked.mark, task)
        task.add_done_callback(lambda done: self._over(asked.id, done))
        return await asyncio.shield(task)

    def _over(self, name: str, task: asyncio.Task[Answered]) -> None:
        del self._under_way[name]
        if not task.cancelled():
            task.exception()  # its client may have gone: then nobody else asks for it

    async def _answer(self, asked: Asked, gone: Gone) -> Answered:
        position, took = self._known(asked), Took(named=asked.named)
        if position is None:
            position, took.anew = self._next, True
            self._next += 1
        self._took[position] = took
        try:
            if took.anew:
                await self._decide(asked, position, gone)
            await self._ask(asked, position, gone)
            await self._kept()
        finally:
            del self._took[position]
        answered = answered_as(self._ledger, asked.id, position, took)
        self.heard(answered)
        return answered

    def _known(self, asked: Asked) -> int | None:
        """Where a former request of this name was recorded. One that was in error is done anew."""
        if not asked.named:
            return None
        former = self._ledger.reading.former(asked.id)
        if former is None:
            return None
        if former.status is Status.ERROR:
            self._ledger.forget(former.position)
            return None
        if former.digest != asked.mark:
            raise Taken(asked.id)
        return former.position

    async def _decide(self, asked: Asked, position: int, gone: Gone) -> None:
        case = self._decider.without_model(asked.record(position), asked.mark)
        if case is None:
            return
        with self._queue("local"):
            await self._slots.acquire()
        try:
            if not asked.named and await gone():
                raise ClientGone
            self._decider.begin(case)
            began = time.monotonic()
            local = await self._decider.with_model(case)
        finally:
            self._slots.release()
        took = self._took[position]
        took.local_s = time.monotonic() - began
        if local is not None:
            # The trail has them too, and would be read from its start to its end.
            took.local_tokens = (local.answer.input_tokens, local.answer.output_tokens)
            self._slowest.saw(position, local.seconds)

    @contextmanager
    def _queue(self, model: str) -> Iterator[None]:
        self.queued[model] += 1
        try:
            yield
        finally:
            self.queued[model] -= 1

    async def _ask(self, asked: Asked, position: int, gone: Gone) -> None:
        """Sends the record to the closed model, if it waits for that and may be sent."""
        held = self._ledger.held(position)
        if held is None or self._session is None:
            return
        session = self._session
        if session.sender is None or self._stopping:
            reason = Reason.STOPPED if self._stopping else Reason.NO_KEY
            self._ledger.set_waits_for(position, reason)
        else:
            with self._queue("closed"):
                await self._turns.acquire()
            try:
                if not asked.named and await gone():
                    self._ledger.set_waits_for(position, CLIENT_GONE)
                else:
                    self._try_again(session.escalator)
                    await self._escalate(session, session.sender, position)
            finally:
                self._turns.release()
        held = self._ledger.held(position)
        if held is not None and held.reason in STANDS:
            paid = self._ledger.attempts.paid_usd(position)
            self._ledger.change(local_outcome(held, paid))

    async def _escalate(self, session: PaidSession, sender: Sender, position: int) -> None:
        took, first = self._took[position], self._ledger.attempts.next_id()
        began = time.monotonic()
        asked = {
            "gen_ai__operation__name": "chat",
            "gen_ai__provider__name": session.closed.settings.provider,
            "gen_ai__request__model": session.closed.settings.model,
        }
        with self.tracing.span("escalate", **asked) as span:
            await session.escalator.ask(sender, position)
            took.closed_tokens = paid_since(self._ledger, first, position)
            if span is not None:
                span.set_attribute("gen_ai.usage.input_tokens", took.closed_tokens[0])
                span.set_attribute("gen_ai.usage.output_tokens", took.closed_tokens[1])
        took.closed_s = time.monotonic() - began

    def _try_again(self, escalator: Escalator) -> None:
        if escalator.stopped is None or self._stopping:
            self._stopped_at = None
            return
        now = time.monotonic()
        self._stopped_at = self._stopped_at or now
        if now - self._stopped_at >= COOL_DOWN_S:
            escalator.lift()
            self._stopped_at = None

    async def _kept(self) -> None:
        """Until what was settled is on the disk."""
        if self._commit is None:
            self._commit = asyncio.create_task(self._commit_soon())
        await asyncio.shield(self._commit)

    async def _commit_soon(self) -> None:
        await asyncio.sleep(COMMIT_AFTER_S)
        self._commit = None  # whoever comes from here on needs the next one
        self._ledger.commit()
