"""Calls about batches through a provider's SDK: bounded in time and size, and parsed here alone.

The SDKs are asked for raw bytes. Their own models take whatever comes for what it should be, their
lines end at characters that an answer may hold, and their streams have no end in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from dataclasses import replace
from typing import Any, Protocol

from escalation.providers.batch_protocol import UPLOAD_S, CallFailed
from escalation.providers.protocol import Key, Reply
from runner.formats.foreign_json import MOST_BYTES, Unreadable, clipped, parse

ENDED_LINE = b"\n"
_BLANK = b" \t\r\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_LONGEST_ID = 512
SAMPLE = 100


class Response(Protocol):
    """What both SDKs give where the body is still to be read."""

    def iter_bytes(self) -> AsyncIterator[bytes]: ...


Open = Callable[[], AbstractAsyncContextManager[Response]]


class Calls:
    """``failed`` reads the SDK's own errors."""

    def __init__(
        self, key: Key, failed: Callable[[Exception, Key, float], Reply], timeout_s: float
    ) -> None:
        self._key = key
        self._failed = failed
        self._timeout_s = timeout_s

    async def make(self, call: Open, within_s: float | None = None) -> Mapping[str, Any]:
        """Makes a call that creates something; if its reply is lost, the result is unknown."""
        async with self._told(asking=False):
            return await _whole(call, within_s or self._timeout_s)

    async def ask(self, call: Open) -> Mapping[str, Any]:
        """A call that changes nothing, so that its failure is no more than this batch's."""
        async with self._told(asking=True):
            return await _whole(call, self._timeout_s)

    async def tell(self, call: Open) -> None:
        """The same where the reply says nothing."""
        async with self._told(asking=True), asyncio.timeout(self._timeout_s), call():
            return

    async def rows(self, call: Open) -> AsyncGenerator[tuple[str, Mapping[str, Any]]]:
        """(``custom_id``, the row) of a file of such rows. Of a line that is none nobody knows
        whose it is."""
        async with aclosing(self._lines(call)) as lines:
            async for line in lines:
                try:
                    row = parse(line, odd_numbers=True)  # one bad count does not cost the answer
                except Unreadable:
                    continue
                name = row.get("custom_id") if isinstance(row, dict) else None
                if isinstance(name, str):
                    yield name, row

    async def _lines(self, call: Open) -> AsyncGenerator[bytes]:
        """Each within the timeout, and all of them within the time of an upload."""
        clock = asyncio.get_running_loop().time
        until, line = clock() + max(UPLOAD_S, self._timeout_s), bytearray()
        due = clock() + self._timeout_s
        async with self._told(asking=True), AsyncExitStack() as stack:
            async with asyncio.timeout_at(due):
                pieces = _plain((await stack.enter_async_context(call())).iter_bytes())
            while True:
                # Around each step alone: at a yield it would cut the reader off instead.
                async with asyncio.timeout_at(min(due, until)):
                    piece = await anext(pieces, None)
                first, *others = (piece or b"").split(ENDED_LINE)
                if len(line) <= MOST_BYTES:  # what is longer is no row: its rest is not kept
                    line += first
                for other in others if piece is not None else [b""]:
                    if line.strip(_BLANK):
                        yield bytes(line)
                        due = clock() + self._timeout_s
                    line = bytearray(other)
                if piece is None:
                    return

    @asynccontextmanager
    async def _told(self, *, asking: bool) -> AsyncIterator[None]:
        """Turns whatever an SDK raises into `CallFailed`."""
        if self._key.problem:
            raise CallFailed(Reply("halt", problem=self._key.problem))
        try:
            yield
        except CallFailed:
            raise
        except Unreadable as error:
            problem = self._key.line(f"the reply is not readable: {error}")
            raise CallFailed(Reply("unknown", problem=problem)) from None
        except Exception as error:
            reply = self._failed(error, self._key, self._timeout_s)
            if asking:  # only a key that is refused is refused for all batches
                refused = getattr(error, "status_code", None) == 401
                reply = replace(reply, verdict="halt" if refused else "unknown")
            raise CallFailed(reply) from None


async def _plain(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """A file that is kept packed comes so, and no header says it."""
    from escalation.providers.bodies import unpacker

    unpack = None
    async for piece in pieces:
        if unpack is None:
            unpack = unpacker("gzip" if piece.startswith(_GZIP) else "")
        for part in unpack(piece):
            yield part
            await asyncio.sleep(0)  # or no deadline would be heard of


async def first_names(rows: AsyncGenerator[tuple[str, object]]) -> list[str]:
    """Of a file's first rows: enough to tell whose it is, though one of them be astray in it."""
    names = []
    async with aclosing(rows):
        async for name, _ in rows:
            names.append(name)
            if len(names) >= SAMPLE:
                break
    return names


async def _whole(call: Open, within_s: float) -> Mapping[str, Any]:
    content = bytearray()
    async with asyncio.timeout(within_s), call() as response:
        async for piece in response.iter_bytes():
            content += piece
            if len(content) > MOST_BYTES:
                break
    value = parse(bytes(content))
    if not isinstance(value, dict):
        raise Unreadable(f"{clipped(value)} is no object")
    return value


def id_of(value: object) -> str | None:
    """What can be an id: a short text that a URL and a terminal take."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        return None
    return value if value.isascii() and value.isprintable() else None


def made_id(made: Mapping[str, Any]) -> str:
    """Of what was just made."""
    found = id_of(made.get("id"))
    if found is None:
        raise CallFailed(Reply("unknown", problem="the reply has no id"))
    return found
