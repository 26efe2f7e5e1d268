"""A provider's batches, whichever provider's: what can be asked of them, and what they say.

`escalation.anthropic_batches` and `escalation.openai_batches` are the two; `escalation.batching`
sends and collects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from escalation.replies import Key, Reply

UPLOAD_S = 600.0
"""A batch of hundreds of megabytes takes longer to send than one request may."""
CLOCKS_APART_S = 300.0
"""How far a provider's clock may be from ours."""


class CallFailed(Exception):
    """A call about a batch that brought nothing; ``reply`` says what is known of it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.problem)
        self.reply = reply


class ResultsGone(CallFailed):
    """The provider keeps the batch's results no longer."""


@dataclass(frozen=True, slots=True)
class Part:
    """One request of a batch. ``name`` is what the provider knows it by: unique, of letters,
    digits, ``-`` and ``_``, at most 64."""

    name: str
    request: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remote:
    """A batch as the provider has it. ``problem``: why it did none of it, where that is so."""

    id: str
    ended: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch that may have been made, though nobody heard its id. ``prefix`` begins the names of
    all its parts, and of no other batch's; ``known`` are ids that belong to other batches."""

    prefix: str
    requests: int
    begun_at: float
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Found:
    """What the search for a lost batch came to. ``undecided``: it may be one that cannot be told
    from others before it has ended."""

    id: str | None
    undecided: bool = False


class BatchApi(Protocol):
    """One provider's. Every method but ``results`` makes its calls once, with no retries of its
    own, and raises `CallFailed`."""

    most_requests: int
    most_bytes: int

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        """Sends a batch; its id."""
        ...

    async def find(self, lost: Lost) -> Found: ...

    async def look(self, batch_id: str) -> Remote: ...

    def results(self, batch_id: str) -> AsyncGenerator[tuple[str, Reply]]:
        """(a part's name, its reply), in any order. ``retry`` is what the provider did not do and
        does not bill. What cannot be read is left out; what is missing is not missed.

        Raises:
            CallFailed: the rest did not come.
            ResultsGone: and never will.
        """
        ...

    async def cancel(self, batch_id: str) -> None:
        """Nothing more of it is begun; what is under way may still be done, and billed."""
        ...

    async def aclose(self) -> None: ...


@asynccontextmanager
async def telling(
    key: Key, failed: Callable[[Exception, Key, float], Reply], within_s: float | None
) -> AsyncIterator[None]:
    """Turns whatever an SDK raises into `CallFailed`; ``failed`` reads the SDK's own errors."""
    if key.problem:
        raise CallFailed(Reply("halt", problem=key.problem))
    try:
        async with asyncio.timeout(within_s):
            yield
    except CallFailed:
        raise
    except Exception as error:
        raise CallFailed(failed(error, key, within_s or 0.0)) from None


def id_of(made: object) -> str:
    """Of a batch that was just made; ValueError where the reply is no such thing."""
    found = getattr(made, "id", None)
    if not isinstance(found, str) or not found:
        raise ValueError("the reply is no batch")
    return found
