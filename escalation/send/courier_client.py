"""The run's side of the courier: starts it, sends through it, reads a former courier's journal.

A courier that dies or stops responding is replaced. The replies to the calls that its journal lists
as sent are lost; all other calls go to the new courier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escalation.providers.patience import Patience
from escalation.providers.protocol import Reply, unanswered
from escalation.send.awake import Awake, within
from escalation.send.courier import LOCK
from escalation.send.courier_journal import LOST, entry_of, journaled
from escalation.send.courier_lock import until_free
from escalation.send.courier_process import CourierProcess
from runner.errors import RunFailed
from runner.job import Escalation
from runner.types import Event, Say, notice

MOST_DEATHS = 3
"""After this many deaths in a row without a reply, no other courier is started."""


@dataclass(slots=True)
class _Call:
    order: Mapping[str, Any]
    reply: asyncio.Future[Reply]
    told: CourierProcess | None = None
    sent_at: float | None = None


class Courier:
    """The courier of one run directory; to send, use it as an async context manager."""

    def __init__(
        self,
        run_dir: Path,
        escalation: Escalation,
        patience: Patience,
        say: Say,
    ) -> None:
        self._run_dir = run_dir
        self._timeout_s = escalation.timeout_s
        self._patience = patience
        self._say = say
        self._settings = {
            "wire": escalation.entry.wire,
            "address": escalation.address,
            "key_env": escalation.api_key_env,
            "timeout_s": escalation.timeout_s,
            "concurrency": escalation.concurrency,
            "beat_s": patience.beat_s,
        }
        self._calls: dict[int, _Call] = {}
        self._clock = Awake(min(1.0, patience.beat_s / 2))
        self._process: CourierProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False
        self._deaths = 0
        self._problem: str | None = None

    async def __aenter__(self) -> Courier:
        self._process = await self._started()
        self._keeper = asyncio.create_task(self._keep(self._process))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._keeper is not None
        self._closing = True
        if self._process is not None:
            self._process.close()
        try:
            most = self._timeout_s + self._patience.slack_s + self._patience.end_s
            await within(most, asyncio.shield(self._keeper))
        except TimeoutError:
            problem = f"did not end within {most:g} s, and was ended"
            said = (
                f"the process that makes the paid calls {problem}; what it sent without a reply "
                "counts as spent"
            )
            pid = self._process.pid if self._process is not None else None
            self._say(notice(Event.COURIER_LOST, said, pid=pid, problem=problem))
            if self._process is not None:
                await self._process.kill()
        finally:
            self._keeper.cancel()

    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply:
        """Never raises for a failed call: the reply's verdict says what happened."""
        if self._problem is not None:
            return Reply("halt", problem=self._problem)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        call = _Call({"attempt": attempt, "request": request}, reply)
        self._calls[attempt] = call
        try:
            self._order(call)
            return await reply
        finally:
            del self._calls[attempt]

    async def former_replies(self) -> tuple[dict[int, Reply], Reply]:
        """What a killed run's courier wrote down, by attempt, and what is true of any other; waits
        while it is still at work.

        An attempt that it was about to send, but whose reply it never wrote, is ``unknown``; one
        that it never began is ``unsent``, but where a line does not say whose it is.
        """
        await self.until_free()
        replies, doubt = journaled(self._run_dir)
        return replies, LOST if doubt else Reply("unsent")

    async def until_free(self) -> None:
        """Waits while a former run's courier is still at work."""
        most = self._timeout_s + self._patience.end_s
        await until_free(self._run_dir / LOCK, most, self._patience.end_s, self._say)

    async def _started(self) -> CourierProcess:
        """Raises RunFailed where it does not come up."""
        await self.until_free()
        try:
            process = CourierProcess(self._run_dir, self._clock, self._patience)
        except OSError as error:
            raise RunFailed(f"the courier of paid calls did not start: {error}") from None
        await process.start(self._settings)
        return process

    async def _keep(self, process: CourierProcess) -> None:
        """Listens until it is closed; a process that ends before that is followed by another."""
        try:
            while True:
                how = await self._listened(process)
                self._process = None
                lost = await self._book()
                if self._closing and how is None:
                    return
                self._died(process, how or "died", lost)
                if self._closing or self._problem is not None:
                    return
                process = self._process = await self._started()
                if self._closing:
                    process.close()
                for call in self._calls.values():
                    self._order(call)
        except (RunFailed, ValueError) as error:
            self._problem = str(error)
        finally:
            self._process = None
            self._problem = self._problem or "the courier of paid calls has ended"
            for attempt in self._calls:
                self._resolve(attempt, Reply("halt", problem=self._problem))

    async def _listened(self, process: CourierProcess) -> str | None:
        """Until it is gone; how that came, where it was our doing."""
        listening = asyncio.create_task(process.listen(self._hear))
        quiet_s, how = self._patience.quiet_s, None
        try:
            while not listening.done():
                await asyncio.wait([listening], timeout=self._clock.tick_s)
                self._clock.tick()
                self._end_overdue()
                if process.quiet_s > quiet_s:
                    how = f"gave no sign of life for {quiet_s:g} s, and was ended"
                    process.end()
                    break
            await process.gone()  # if not, it is in the kernel's hands, and sends nothing more
            await asyncio.wait([listening], timeout=self._clock.tick_s)
        finally:
            listening.cancel()
        return how

    def _hear(self, line: bytes) -> None:
        attempt, reply = entry_of(line)
        if attempt is None:
            return  # no more than a sign of life
        if reply is not None:
            self._deaths = 0
            self._resolve(attempt, reply)
        elif call := self._calls.get(attempt):
            call.sent_at = self._clock.now

    def _end_overdue(self) -> None:
        """The courier bounds each call; one that is not back long after that never will be."""
        most = self._timeout_s + self._patience.slack_s
        for attempt, call in self._calls.items():
            if call.sent_at is not None and self._clock.now - call.sent_at > most:
                self._resolve(attempt, unanswered(self._timeout_s))

    async def _book(self) -> int:
        """Resolves, by the journal, what a process that is gone had sent; how many it lost."""
        if not self._calls:
            return 0
        left, doubt = await asyncio.to_thread(journaled, self._run_dir)
        if doubt:  # any of them may be the one that it sent
            left = dict.fromkeys(self._calls, LOST) | left
        found = [(attempt, left[attempt]) for attempt in self._calls if attempt in left]
        for attempt, reply in found:
            self._resolve(attempt, reply)
        return sum(reply.verdict == "unknown" for _, reply in found)

    def _died(self, process: CourierProcess, how: str, lost: int) -> None:
        """Says so, and what comes next."""
        self._deaths += 1
        what = f"the process that makes the paid calls ({process.pid}) {how}"
        if lost:
            what += f"; {lost} that it had sent count as spent, and their records go to a person"
        facts = {"pid": process.pid, "problem": how, "lost": lost, "deaths": self._deaths}
        if self._closing:
            self._say(notice(Event.COURIER_LOST, what, **facts))
        elif self._deaths < MOST_DEATHS:
            self._say(notice(Event.COURIER_LOST, f"{what}; a new one takes over", **facts))
        else:
            self._problem = (
                f"the process that makes the paid calls {how}, {self._deaths} times in a row; "
                "check the machine's memory and disk, then run again to continue"
            )
            self._say(notice(Event.COURIER_GIVEN_UP, what, **facts))

    def _order(self, call: _Call) -> None:
        """Hands a call to the process, once; without one, the next gets it."""
        if self._process is not None and call.told is not self._process:
            call.told, call.sent_at = self._process, None
            self._process.write(call.order)

    def _resolve(self, attempt: int, reply: Reply) -> None:
        call = self._calls.get(attempt)
        # Nobody waits for it any more where the run is being stopped; the journal has it.
        if call is not None and not call.reply.done():
            call.reply.set_result(reply)
