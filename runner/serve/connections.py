"""Connections whose clients are slow on purpose, or stopped: none is waited for without an end.

uvicorn waits for ever for the rest of a request's headers, and for a client that reads nothing.
It has no setting for either, so this stands in its protocol class, whose ``cycle``, ``loop`` and
``transport`` its documents do not promise: tried on `TRIED`, held by `tests/test_insides.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from runner.serve.options import Limits

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Base
else:
    Base = AutoHTTPProtocol

TRIED = "0.54"


class Connection(Base):
    """One connection, which is closed where its client does not keep to the ``limits``."""

    limits = Limits()
    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._end_head()  # a request is at work
            return
        if self._head is None:
            self._begin_head()
        # After an early answer the rest of that request's body may still come, and is thrown away.
        rest = self.cycle is not None and self.cycle.more_body
        self._head_bytes += 0 if rest else len(data)
        if self._head_bytes > self.limits.head_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.taken_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _begin_head(self) -> None:
        late = b"408 Request Timeout"
        self._head = self.loop.call_later(self.limits.head_s, self._refuse, late)

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _refuse(self, status: bytes) -> None:
        """Without a word in JSON: no request is known yet that this could answer."""
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()


def limited(limits: Limits) -> type[asyncio.Protocol]:
    """`Connection` with these limits, as uvicorn makes one for each client."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
