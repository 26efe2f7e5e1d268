"""HTTP transport for both SDKs: no redirects, no cookies, and bodies of limited size.

Nothing that a server sends can fill the memory: neither a body without end nor one that unpacks to
a thousand times its size. An error's body is cut off instead, as its status says enough.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2

from runner.formats.foreign_json import Unreadable, clipped
from runner.formats.own_requests import own_requests

MOST_REPLY_BYTES = 8 << 20
"""Of a single answer; the longest that a model gives is a tenth of it."""
MOST_ERROR_BYTES = 1 << 16
PIECE_BYTES = 1 << 16


def http_settings(concurrency: int, *, bounded: bool) -> dict[str, Any]:
    """For an SDK's own HTTP client. Not ``bounded`` where bodies are read as a stream: then those
    of errors alone are."""
    settings: dict[str, Any] = {
        **own_requests(),
        "limits": httpx2.Limits(max_connections=concurrency),
        "event_hooks": {"response": [_bound if bounded else _bound_errors]},
    }
    if bounded:
        settings["headers"] = {"accept-encoding": "gzip, deflate"}  # what is unpacked here
    return settings


async def _bound(response: httpx2.Response) -> None:
    coding = response.headers.pop("content-encoding", "").strip().lower()
    if not response.is_success:
        # The SDK reads an error's text by what this says, and a wrong charset would raise there.
        response.headers["content-type"] = "application/json"
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, coding, cut=not response.is_success)


async def _bound_errors(response: httpx2.Response) -> None:
    if not response.is_success:
        await _bound(response)


class _Bounded(httpx2.AsyncByteStream):
    """Raises `Unreadable` where there is more than may be, or, with ``cut``, ends there."""

    def __init__(self, inner: httpx2.AsyncByteStream, coding: str, *, cut: bool) -> None:
        self._inner = inner
        self._coding = coding
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MOST_ERROR_BYTES if self._cut else MOST_REPLY_BYTES
        unpack = unpacker(self._coding)
        async for piece in self._inner:
            try:
                for part in unpack(piece):
                    yield part[:left]
                    left -= len(part)
                    if left < 0:
                        raise Unreadable(f"over {MOST_REPLY_BYTES:,} bytes")
            except Unreadable:
                if self._cut:
                    return
                raise

    async def aclose(self) -> None:
        await self._inner.aclose()


def unpacker(coding: str) -> Any:
    """What makes the parts, each a bounded one, of a piece that is packed so."""
    if coding in ("", "identity"):
        return lambda piece: [piece]
    if coding not in ("gzip", "x-gzip", "deflate"):

        def refuse(piece: bytes) -> Iterator[bytes]:
            raise Unreadable(f"packed as {clipped(coding)}")

        return refuse
    machine = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of either kind, by its own header

    def unpack(piece: bytes) -> Iterator[bytes]:
        while piece:
            try:
                yield machine.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise Unreadable(f"packed wrongly: {error}") from None
            piece = machine.unconsumed_tail

    return unpack
