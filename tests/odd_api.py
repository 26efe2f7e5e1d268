"""An API that replies with any bytes at all: what a test makes of each request.

Where `tests.stand_in` is a provider with faults, this one has no rules: a reply is a status, some
headers, a body, and how they leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from tests.stand_in.wire import Call, receive, reset

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Odd:
    """``ends``: ``whole``, ``cut`` (half of what its length promises), ``cut_chunked``,
    ``unsized`` (the connection's end is the body's) or ``reset``."""

    body: bytes
    status: int = 200
    headers: Headers = ()
    ends: str = "whole"

    def wire(self) -> bytes:
        head = [b"HTTP/1.1 %d Odd" % self.status]
        given = {name for name, _ in self.headers}
        if "content-type" not in given:
            head.append(b"content-type: application/json")
        head += [name.encode() + b": " + value for name, value in self.headers]
        half = self.body[: len(self.body) // 2]
        if self.ends == "cut_chunked":
            head.append(b"transfer-encoding: chunked")
            return b"\r\n".join([*head, b"", b"%x\r\n%b\r\n" % (len(half), half)])
        if self.ends == "unsized":
            return b"\r\n".join([*head, b"connection: close", b"", self.body])
        head.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join([*head, b"", half if self.ends == "cut" else self.body])


class OddApi:
    """``reply`` is asked in the server's thread. ``seen`` counts the requests by path."""

    def __init__(self, reply: Callable[[Call], Odd | Iterable[bytes]]) -> None:
        self._reply = reply
        self.seen: Counter[str] = Counter()
        self.errors: list[Exception] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self.errors and not any(_):
            raise self.errors[0]

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._start(listener))
        self._loop.run_forever()
        server.close()
        for task in self._tasks:
            task.cancel()
        gone = asyncio.gather(*self._tasks, return_exceptions=True)
        self._loop.run_until_complete(gone)
        self._loop.close()

    async def _start(self, listener: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(self._connect, sock=listener, limit=1 << 26)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while call := await receive(reader):
                self.seen[call.path] += 1
                odd = self._reply(call)
                if not isinstance(odd, Odd):
                    await self._stream(odd, writer)
                    break
                if odd.ends == "reset":
                    reset(writer)
                    break
                writer.write(odd.wire())
                await writer.drain()
                if odd.ends != "whole":
                    break
        except (OSError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        except Exception as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _stream(self, pieces: Iterable[bytes], writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
