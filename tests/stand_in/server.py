"""The server: a thread with an event loop of its own, so that a test's loop may block or die."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from .answers import Oracle
from .api import Api, Outcome, Route, Work
from .batches import ClaudeBatches
from .batching import Batching
from .bill import Bill
from .chat import Chat, Gemini
from .chat_batches import ChatBatches
from .claude import Claude
from .faults import Faults, Problem
from .limits import Limits
from .wire import Call, Manner, Reply, pieces, receive, reset

_GRACE_S = 2.0  # how long a stop waits for replies to clients that do not read


Twist = Callable[[str, Call, Reply], Reply]


class StandIn:
    """`where` is a folder for `bill.jsonl`, or the bill's file itself."""

    def __init__(
        self,
        where: Path,
        *,
        oracle: Oracle | Mapping[str, Any] | None = None,
        latency: float = 0.0,
        port: int = 0,
    ) -> None:
        self.bill = Bill(where / "bill.jsonl" if where.is_dir() else where)
        self.faults = Faults()
        self.claude, self.chat, self.gemini = Claude(oracle), Chat(oracle), Gemini(oracle)
        self.batches = Batching(self.faults)
        self.claude_batches = ClaudeBatches(self.claude, self.batches, self.bill)
        self.chat_batches = ChatBatches(self.chat, self.batches, self.bill)
        self.apis: tuple[Api, ...] = (self.claude, self.chat, self.gemini)
        self.errors: list[Exception] = []  # the stand-in's own, or an oracle's
        self.twist: Twist | None = None  # makes another reply of a sound one, as a test wants it
        self.latency = latency
        self.port = port
        self.limits: Limits | None = None
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0
        self._connected: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()
        if self.errors and not any(raised):
            raise self.errors[0]

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        # Without /v1, as the Anthropic SDK wants its base_url.
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, ready)), daemon=True
        )
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Work that has begun is finished, and billed, without its waiting time."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def wait_idle(self, timeout: float = 10.0) -> None:
        """Until no request is being worked on: a client that left does not end its request."""
        until = time.monotonic() + timeout
        while self.in_flight:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.in_flight} requests still in flight")
            time.sleep(0.002)

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, sock=listener, backlog=512)
        ready.set()
        await self._stopping.wait()
        server.close()
        for task in self._connected - self._busy:
            task.cancel()
        if self._connected:
            await asyncio.wait(self._connected, timeout=_GRACE_S)
        for task in self._connected:
            task.cancel()
        await asyncio.gather(*self._connected, return_exceptions=True)
        try:
            for desk in self.batches.desks:
                desk.finish()
        except Exception as error:
            self.errors.append(error)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connected.add(task)
        self.connections += 1
        # No buffer: a drain that returns means that the kernel has every byte.
        writer.transport.set_write_buffer_limits(0)
        try:
            while not self._stopping.is_set() and (call := await receive(reader)):
                self._busy.add(task)
                keep = await self._exchange(call, reader, writer)
                self._busy.discard(task)
                if not keep or call.headers.get("connection", "").lower() == "close":
                    break
        except (asyncio.CancelledError, OSError):
            pass  # stopping, or the client left: either way this connection is over
        except Exception as error:
            self.errors.append(error)
        finally:
            self._busy.discard(task)
            self._connected.discard(task)
            writer.transport.abort()  # nothing is buffered, so this is an ordinary close

    async def _exchange(
        self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request and its reply; False where the connection is not to be used again."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            request_id = f"req_{secrets.token_hex(12)}"
            api, route, given = self._find(call)
            self.bill.received(request_id, route.endpoint, call)
            outcome = await self._perform(call, api, route, given)
            self._settle(request_id, outcome)
            if reader.at_eof() or reader.exception():  # the client left while the work went on
                return False
            reply = outcome.reply(api, request_id)
            self._tell_limits(api, reply)
            if self.twist is not None:
                reply = self.twist(route.endpoint, call, reply)
            return await self._send(writer, request_id, reply, outcome)
        finally:
            self.in_flight -= 1

    async def _send(
        self, writer: asyncio.StreamWriter, request_id: str, reply: Reply, outcome: Outcome
    ) -> bool:
        if outcome.manner is Manner.RST:
            reset(writer)
        parts, keep = pieces(reply, outcome.manner)
        seconds = outcome.fault.seconds if outcome.fault else 0.0
        try:
            for place, piece in enumerate(parts, start=1):
                if place > 1:
                    await self._pause(seconds / len(parts))
                if place == len(parts) and outcome.manner in (Manner.WHOLE, Manner.DRIP):
                    self.bill.told(request_id, answered=True)  # not after: a client may be quicker
                writer.write(piece)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            self.bill.told(request_id, answered=False)
            raise
        return keep

    def _find(self, call: Call) -> tuple[Api, Route, str | None]:
        for api in self.apis:
            for route in api.routes:
                if (given := route.match(call)) is not None:
                    return api, route, given
        return self.claude, Route("", "", f"{call.method} {call.path}", _not_found), None

    async def _perform(self, call: Call, api: Api, route: Route, given: str | None) -> Outcome:
        try:
            if given is not None:
                api.authorize(call)
            finish = route.accept(call, given or "")
            if self.limits is not None and not self.limits.admit(call.body):
                raise Problem(429, "rate_limit_error", "This would exceed your rate limit.")
            # After the checks: a request that is wrong by itself does not use up a fault.
            fault = self.faults.meet(
                route.endpoint, call.body.decode("utf-8", "replace") or call.path
            )
            if fault is None:
                await self._pause(self.latency)
                return Outcome(answer=finish(None))
            waiting = 0.0 if fault.manner is Manner.DRIP else fault.seconds
            await self._pause(self.latency + waiting)
            answer = finish(fault) if fault.works else None
            return Outcome(fault, answer, fault.problem)
        except Problem as problem:
            return Outcome(problem=problem)
        except Exception as error:  # kept for the test to fail on, whatever its client makes of it
            self.errors.append(error)
            return Outcome(problem=Problem(500, "api_error", f"stand-in: {error!r}"))

    def _tell_limits(self, api: Api, reply: Reply) -> None:
        if self.limits is None:
            return
        for name in [name for name in reply.headers if "ratelimit" in name]:
            del reply.headers[name]
        reply.headers |= self.limits.headers(api.id_header)
        if reply.status == 429 and (pause := self.limits.retry_after()) is not None:
            reply.headers["retry-after"] = pause

    def _settle(self, request_id: str, outcome: Outcome) -> None:
        """Before the first byte of the reply leaves: no client ever knows more than the bill."""
        answer = outcome.answer
        if self.limits is not None and answer is not None:
            usage = answer.usage or {}
            self.limits.produced(usage.get("output_tokens", usage.get("completion_tokens", 0)))
        fault = outcome.fault.name if outcome.fault else None
        self.bill.done((request_id, outcome.status, fault, answer))

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _not_found(call: Call, _: str) -> Work:
    raise Problem(404, "not_found_error", f"Not found: {call.path}")
