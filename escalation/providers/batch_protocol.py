"""The interface to a provider's batches, the same for all providers.

`runner.job.providers` says who has them; `escalation.send.batch_submit` sends and
`escalation.send.batch_collect` collects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from escalation.providers.protocol import Reply

UPLOAD_S = 600.0
"""A batch of hundreds of megabytes takes longer to send, or to read, than one request may."""
CLOCKS_APART_S = 300.0
"""How far a provider's clock may be from ours."""
LATEST_S = 48 * 3600.0
"""A provider ends a batch within a day. One that goes on for longer is waited for no more, and one
that was made so long after a lost one was begun is another."""


class CallFailed(Exception):
    """A call about a batch that brought nothing; ``reply`` says what is known of it. ``halt``: no
    other call would bring anything either."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.problem)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a batch. ``name`` is what the provider knows it by: unique, of letters,
    digits, ``-`` and ``_``, at most 64."""

    name: str
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the provider has it.

    ``odd``: its status, where it is none that we know; ``problem``: why it did none of it, where
    that is so. ``files``: where its results are; those of a batch that has ended may come later.
    ``stopped``: it was cancelled or expired, so what has no result was not done, if ``answered`` of
    it were.
    """

    id: str
    ended: bool
    odd: str | None = None
    problem: str | None = None
    files: tuple[str, ...] = ()
    stopped: bool = False
    answered: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that may have been made, though nobody heard its id. ``prefix`` begins the names of
    all its parts, and of no other batch's; ``known`` are ids that belong to other batches."""

    prefix: str
    begun_at: float
    known: frozenset[str]

    def made_at(self, at: float | None) -> bool:
        """Whether a batch of that time may be the lost one; None: nobody knows its time."""
        earliest, latest = self.begun_at - CLOCKS_APART_S, self.begun_at + LATEST_S
        return at is None or earliest <= at <= latest


@dataclass(frozen=True, slots=True)
class Found:
    """What the search for a lost batch came to. ``running``: it may be one that cannot be told
    from others before it has ended. ``undecided``: why it cannot be told whether it is there."""

    id: str | None
    running: bool = False
    undecided: str | None = None


class BatchApi(Protocol):
    """One provider's, made of a job's `escalation`. Every method makes its calls once, with no
    retries of its own, in bounded time, and raises `CallFailed` and nothing else."""

    most_requests: int
    most_bytes: int

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        """Sends a batch; its id."""
        ...

    async def find(self, lost: Lost) -> Found: ...

    async def look(self, batch_id: str) -> Remote: ...

    def results(self, remote: Remote) -> AsyncGenerator[tuple[str, Reply]]:
        """(a part's name, its reply), in any order. ``retry`` is what the provider did not do and
        does not bill, ``unknown`` a result that is none. A line that cannot be read is left out;
        what is missing is not missed."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Cancels a batch; requests under way may still be completed and billed."""
        ...

    async def aclose(self) -> None: ...
