"""Says when the provider stops answering, how that goes on, and when it answers again."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from escalation.providers.protocol import Reply
from runner.job.escalation import Escalation
from runner.types import Event, Reason, Say, notice


class Trouble:
    """One sentence as each kind of trouble begins, one when it is over: a storm is no news."""

    def __init__(self, settings: Escalation, say: Say) -> None:
        parts = urlsplit(settings.address)
        port = f":{parts.port}" if parts.port else ""
        self._who = f"{parts.hostname or settings.address}{port}"  # no login, no path
        self._settings = settings
        self._say = say
        self._said: set[Event] = set()

    def heard(self, reply: Reply, *, storm: bool) -> None:
        """``storm``: so many overloads in a row that the provider is left alone for a while."""
        if reply.unreachable and reply.verdict == "unknown":
            self._once(Event.API_SILENT, self._silent(), seconds=self._settings.timeout_s)
        elif reply.unreachable:
            said = f"{self.words(reply)}; {self._going_on()}"
            self._once(Event.API_UNREACHABLE, said, **self._facts(reply))
        elif storm and reply.overloaded:
            said = f"{self._who} is overloaded ({reply.problem}); {self._going_on()}"
            self._once(Event.API_OVERLOADED, said, **self._facts(reply))
        elif reply.verdict in ("ok", "reject") and self._said:
            self._said.clear()
            self._say(notice(Event.API_BACK, f"{self._who} answers again", host=self._who))

    def end(self, reply: Reply) -> tuple[Reason, str | None]:
        """Why sending stops, after all tries, and what was last heard."""
        if reply.unreachable:
            return Reason.PROVIDER_UNREACHABLE, self.words(reply)
        return Reason.PROVIDER_BUSY, reply.problem

    def words(self, reply: Reply) -> str:
        """What is wrong, where the provider is unreachable."""
        if reply.verdict == "unknown":
            return f"{self._who} does not answer ({reply.problem})"
        return f"{self._who} cannot be reached ({reply.problem})"

    def _once(self, event: Event, sentence: str, **fields: Any) -> None:
        if event not in self._said:
            self._said.add(event)
            self._say(notice(event, sentence, host=self._who, **fields))

    def _facts(self, reply: Reply) -> dict[str, Any]:
        return {"problem": reply.problem, "retry_s": self._settings.retry_for_s}

    def _going_on(self) -> str:
        for_s = self._settings.retry_for_s
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + for_s))
        return (
            f"trying again until {until} at the latest (`escalation.retry_for_s`), while local "
            "work goes on; what is then not sent waits for the next run"
        )

    def _silent(self) -> str:
        return (
            f"{self._who} did not answer a request within {self._settings.timeout_s:g} s: the call "
            "may be billed, so it counts as spent, and its record goes to a person; where the "
            "model is only slow, raise `escalation.timeout_s`"
        )
