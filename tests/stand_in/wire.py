"""HTTP/1.1 on asyncio streams, and the ways a reply can go wrong between two machines.

Written out by hand because a server library would not let a test send half a body or a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum, auto
from http import HTTPStatus
from urllib.parse import parse_qsl

_PIECES = 20


class Manner(Enum):
    WHOLE = auto()
    RST = auto()  # reset, nothing sent
    FIN = auto()  # closed, nothing sent
    CUT = auto()  # half of what Content-Length promises
    CUT_CHUNKED = auto()  # chunked, closed before the last chunk
    UNSIZED = auto()  # no length, and all there is: what the body lacks nobody can see
    CUT_UNSIZED = auto()  # no length: the end of the connection is the end of the body
    MALFORMED = auto()  # broken JSON, otherwise a sound reply
    EMPTY = auto()  # no body, otherwise a sound reply
    HTML = auto()  # a page, as from a proxy on the way
    DRIP = auto()  # whole, but a little at a time


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    query: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def head(self, length: int | None, *, chunked: bool = False) -> bytes:
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Overloaded"
        lines = [f"HTTP/1.1 {self.status} {reason}"]
        fields = {"content-type": "application/json", **self.headers}
        if length is None:
            fields |= {"transfer-encoding": "chunked"} if chunked else {"connection": "close"}
        else:
            fields["content-length"] = str(length)
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode()


async def receive(reader: asyncio.StreamReader) -> Call | None:
    """The next whole request, or None where the client left or spoke something else."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
        return None
    path, _, query = target.partition("?")
    return Call(method, path, headers, body, dict(parse_qsl(query)))


def pieces(reply: Reply, manner: Manner) -> tuple[list[bytes], bool]:
    """What to write, one after the other, and whether the connection can be used again."""
    if manner in (Manner.RST, Manner.FIN):
        return [], False
    body = reply.body
    half = body[: len(body) // 2]
    if manner is Manner.CUT_CHUNKED:
        return [reply.head(None, chunked=True) + b"%x\r\n%b\r\n" % (len(half), half)], False
    if manner in (Manner.CUT, Manner.UNSIZED, Manner.CUT_UNSIZED):
        head = reply.head(len(body) if manner is Manner.CUT else None)
        return [head + (body if manner is Manner.UNSIZED else half)], False
    if manner is Manner.DRIP:
        step = -(-len(body) // _PIECES)
        drops = [body[at : at + step] for at in range(0, len(body), step)]
        return [reply.head(len(body)), *drops], True
    if manner is Manner.MALFORMED:
        body = half
    elif manner is Manner.EMPTY:
        body = b""
    elif manner is Manner.HTML:
        reply.headers["content-type"] = "text/html; charset=utf-8"
        body = b"<html><body><h1>Please sign in</h1></body></html>"
    return [reply.head(len(body)) + body], True


def reset(writer: asyncio.StreamWriter) -> None:
    """With a zero linger time the kernel answers the close with RST in place of FIN."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
