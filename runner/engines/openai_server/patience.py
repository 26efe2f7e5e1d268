"""Whose fault it is that a server does not answer a request: the record's, or the server's own.

A short question of ours tells: where that is answered, the record is asked again, and in the end
set aside alone; where there is no server, everything waits until it is back. Nothing is set aside
before another request was answered, so that what all requests run into ends the run instead.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.engines.openai_server.wire import Kind, Trouble
from runner.engines.process.suspects import Asked, Suspects
from runner.errors import EngineError, RecordError, SureLocalError, UsageError
from runner.types import Completion, Event, Reason, Say, notice

MOST_ALIKE = 20
"""So many requests in a row that fail in the same way, and none answered: it is not the records."""
MOST_OUTAGES = 6
"""So many times the server went away with no request answered between: it does not stay."""
PROBE_S = 8.0
KEPT = "what was answered is kept, and the same command goes on from there"

# Before each further try of one request that the server, which is well, did not answer.
_PAUSES = {Kind.REFUSED: (), Kind.BUSY: (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)}
_USUAL_PAUSES = (0.25,)
_PROBE_PAUSES = (0.1, 0.25, 0.5, 1.0, 2.0)
_MOST_FAILED_PROBES = 4
_LONGEST_PAUSE_S = 5.0

Send = Callable[[Mapping[str, Any], float], Awaitable[list[Completion]]]


@dataclass(frozen=True, slots=True)
class Asking:
    """A server, as sentences and waits need it. ``send`` raises `Trouble`; ``probe`` is the
    question of ours; ``wait_s``: how long a server that went away is waited for."""

    send: Send
    probe: Mapping[str, Any]
    address: str
    model: str
    key_env: str | None
    timeout_s: float
    wait_s: float
    tell: Say


class Patience:
    """All requests to one server pass here; for one event loop."""

    def __init__(self, server: Asking) -> None:
        self._server = server
        self._met = self._down = False
        self._failed: SureLocalError | None = None
        self._outages = self._live = self._answers = 0
        self._dropped: set[Asked] = set()
        self._held: set[Asked] = set()
        self._streak: list[Trouble] = []
        self._suspects = Suspects()
        self._looking: asyncio.Task[list[Trouble] | None] | None = None
        self._change = asyncio.Event()
        self._probe_s = min(server.timeout_s, PROBE_S)

    async def ask(self, body: Mapping[str, Any]) -> list[Completion]:
        """The answer's choices.

        Raises:
            RecordError: the server answers others, and this one it does not.
            EngineError, UsageError: it answers none.
        """
        asked = Asked()
        self._live += 1
        try:
            return await self._tried(asked, body)
        finally:
            self._live -= 1
            self._dropped.discard(asked)
            self._held.discard(asked)
            self._suspects.gone(asked)
            self._changed()

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _tried(self, asked: Asked, body: Mapping[str, Any]) -> list[Completion]:
        tries = itertools.count()
        while True:
            await self._until(lambda: self._may_go(asked))
            try:
                found = await self._server.send(body, self._server.timeout_s)
            except Trouble as trouble:
                well = await self._look_into(asked, trouble)
                if asked in self._dropped:
                    self._suspect(trouble)
                elif well and asked.verdict is None:
                    pauses = _PAUSES.get(trouble.kind, _USUAL_PAUSES)
                    if (number := next(tries)) < len(pauses):
                        await asyncio.sleep(pauses[number])
                    else:
                        asked.verdict = self._verdict(trouble)
                if asked.verdict is not None:
                    await self._hold(asked, trouble)
            else:
                self._answered()
                return found

    # --- whose turn it is ---

    def _may_go(self, asked: Asked) -> bool:
        return not self._down and (not self._suspects or asked in self._suspects.now)

    async def _until(self, ready: Callable[[], bool]) -> None:
        while True:
            if self._failed is not None:
                raise self._failed
            if ready():
                return
            await self._change.wait()

    def _changed(self) -> None:
        """Lets all who wait look again."""
        if self._held and len(self._held) == self._live:
            self._held.clear()  # nothing else is there that could be answered
        if not self._down:
            self._suspects.next_group()
        self._change.set()
        self._change = asyncio.Event()

    def _answered(self) -> None:
        self._met, self._outages = True, 0
        self._answers += 1
        self._streak.clear()
        self._held.clear()
        self._changed()

    def _fail(self, error: SureLocalError) -> SureLocalError:
        self._failed = self._failed or error
        self._changed()
        return self._failed

    # --- the record's fault ---

    async def _hold(self, asked: Asked, trouble: Trouble) -> None:
        """Sets the request aside, once another was answered or none is left."""
        assert asked.verdict is not None
        self._streak.append(trouble)
        alike = self._streak[-MOST_ALIKE:]
        if len(alike) == MOST_ALIKE and all(trouble.same_as(other) for other in alike):
            raise self._fail(self._sentence(trouble))
        self._suspects.gone(asked)
        self._held.add(asked)
        self._changed()
        await self._until(lambda: asked not in self._held)
        raise asked.verdict

    def _suspect(self, trouble: Trouble) -> None:
        """Those that were dropped together are asked again, in ever smaller groups, until it is
        clear which of them the server drops."""
        dropped, self._dropped = self._dropped | self._suspects.now, set()
        culprit, _ = self._suspects.died(dropped)
        if culprit is not None:
            culprit.verdict = self._verdict(trouble)
        self._changed()

    def _verdict(self, trouble: Trouble) -> RecordError:
        return RecordError(
            f"the local server answers other records and not this one: {trouble.words}; change or "
            "shorten it, then run the same command again",
            Reason.SERVER_FAILED,
        )

    # --- the server's fault ---

    async def _look_into(self, asked: Asked, trouble: Trouble) -> bool:
        """Whether the server answers at once, and if not, waits until it does.

        Raises:
            EngineError, UsageError: it will not, or its trouble is the same with any request.
        """
        self._met = self._met or trouble.status is not None
        if trouble.kind is not Kind.BUSY:
            self._dropped.add(asked)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        probed = await asyncio.shield(self._looking)
        if self._failed is not None:
            raise self._failed
        if probed and all(trouble.same_as(other) for other in probed):
            raise self._fail(self._sentence(trouble))
        well = probed is not None
        if well and trouble.kind is not Kind.GONE:
            self._dropped.discard(asked)
        return well

    async def _look(self) -> list[Trouble] | None:
        """Asks a question of ours until it is answered.

        Returns:
            The troubles of a server that is there and answers none; or None where it was away.
        """
        try:
            return await self._probed()
        finally:
            self._looking = None

    async def _probed(self) -> list[Trouble] | None:
        until, found = time.monotonic() + self._server.wait_s, list[Trouble]()
        answers = self._answers
        for number in itertools.count():
            pause = _PROBE_PAUSES[number] if number < len(_PROBE_PAUSES) else _LONGEST_PAUSE_S
            await asyncio.sleep(pause)
            try:
                if self._answers == answers:  # else a record's answer has told it
                    await self._server.send(self._server.probe, self._probe_s)
                return self._back([])
            except Trouble as trouble:
                self._met = self._met or trouble.status is not None
                if trouble.kind in (Kind.REFUSED, Kind.FAILED):
                    found.append(trouble)
                    if trouble.kind is Kind.REFUSED or len(found) == _MOST_FAILED_PROBES:
                        break
                elif not self._met or time.monotonic() > until:
                    self._fail(self._sentence(trouble))
                    break
                else:
                    self._away(trouble)
        return self._back(found)

    def _away(self, trouble: Trouble) -> None:
        if self._down:
            return
        self._down = True
        self._outages += 1
        if self._outages > MOST_OUTAGES:
            self._fail(self._sentence(trouble))
        ours = self._server
        said = (
            f"the server at {ours.address} does not answer ({trouble.words}): it is waited for, up "
            f"to {ours.wait_s:g} s (`local.server_wait_s`), and asked again"
        )
        facts = {"url": ours.address, "problem": trouble.words, "wait_s": ours.wait_s}
        ours.tell(notice(Event.SERVER_SILENT, said, **facts))

    def _back(self, found: list[Trouble]) -> list[Trouble] | None:
        if not self._down:
            return found
        self._down = False
        if self._failed is None:
            url = self._server.address
            self._server.tell(
                notice(Event.SERVER_BACK, f"the server at {url} answers again", url=url)
            )
        self._changed()
        return found or None

    def _sentence(self, trouble: Trouble) -> SureLocalError:
        """For what is no record's fault."""
        where, said = f"the server at {self._server.address}", trouble.words
        if trouble.status in (401, 403):
            # Its own words may repeat the key.
            name = self._server.key_env or "the variable that local.api_key_env names"
            return UsageError(f"{where} refuses the key; put it into {name}")
        if trouble.kind is Kind.REFUSED:
            hint = "" if trouble.status != 404 or "/v1" in where else "; its address ends in /v1"
            return UsageError(f"{where} refuses the request: {said}{hint}")
        if trouble.kind is Kind.FAILED:
            status = "" if trouble.status in (None, 200) else f" with status {trouble.status}"
            return EngineError(
                f"{where} failed{status}, whatever it is asked: {said}; local.base_url is the "
                f"address of an OpenAI-compatible server, up to and with /v1; {KEPT}"
            )
        if not self._met and trouble.kind is Kind.GONE:
            return EngineError(
                f"no server answers at {self._server.address} ({said}); start it with `vllm serve "
                f"{self._server.model} --logprobs-mode processed_logprobs`, or put its address "
                "into local.base_url"
            )
        fix = (
            "raise local.engine_args.timeout_s or lower local.window"
            if trouble.kind is Kind.LATE
            else "start it again, or raise local.server_wait_s"
        )
        return EngineError(f"{where} gives no answer: {said}; {fix}; {KEPT}")
