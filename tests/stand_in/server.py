"""The server: a thread with an event loop of its own, so that a test's loop may block or die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .api import Answer, Api, Route, Work
from .bill import Bill, price_usd
from .chat import Chat, Gemini
from .claude import Claude, Oracle
from .faults import Fault, Faults
from .limits import Limits
from .problems import Problem
from .wire import Call, Manner, Reply, pieces, receive, reset

_GRACE_S = 2.0  # how long a stop waits for replies to clients that do not read


@dataclass(frozen=True, slots=True)
class _Outcome:
    fault: Fault | None = None
    answer: Answer | None = None  # what the work came to, sent or not
    problem: Problem | None = None  # what is sent in its place

    @property
    def manner(self) -> Manner:
        return self.fault.manner if self.fault else Manner.WHOLE

    @property
    def status(self) -> int | None:
        if self.manner in (Manner.RST, Manner.FIN):
            return None
        return self.problem.status if self.problem else 200

    @property
    def usd(self) -> Decimal:
        done = self.answer
        if done is None or done.model is None or done.usage is None or not done.billed:
            return Decimal(0)
        return price_usd(done.model, done.usage) if done.usd is None else done.usd


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
        self.claude = Claude(oracle)
        self.chat, self.gemini = Chat(oracle), Gemini(oracle)
        self.apis: list[Api] = [self.claude, self.chat, self.gemini]
        self.latency = latency
        self.limits: Limits | None = None
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0
        self.errors: list[Exception] = []  # the stand-in's own, or an oracle's
        self._port = port
        self._connected: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self.errors and error is None:
            raise self.errors[0]

    @property
    def url(self) -> str:
        """Without /v1, as the Anthropic SDK wants its base_url."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        # Bound here, so that a port in use is the caller's exception, not a thread's.
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
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
            api, route = self._find(call)
            self.bill.received(request_id, route.endpoint, _marker(call), call.body, call.headers)
            outcome = await self._perform(route, call)
            self._settle(request_id, outcome)
            if reader.at_eof() or reader.exception():  # the client left while the work went on
                return False
            reply = _reply(api, route, request_id, outcome)
            self._tell_limits(api, reply)
            return await self._send(writer, request_id, reply, outcome)
        finally:
            self.in_flight -= 1

    async def _send(
        self, writer: asyncio.StreamWriter, request_id: str, reply: Reply, outcome: _Outcome
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
                    self.bill.answered(request_id)  # not after: a client may be quicker
                writer.write(piece)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            self.bill.left(request_id)
            raise
        return keep

    def _find(self, call: Call) -> tuple[Api, Route]:
        for api in self.apis:
            if route := api.route(call.method, call.path):
                return api, route
        return self.apis[0], Route(f"{call.method} {call.path}", _not_found)

    async def _perform(self, route: Route, call: Call) -> _Outcome:
        try:
            work = route.accept(call)
            if self.limits is not None and not self.limits.admit(call.body):
                raise Problem(429, "rate_limit_error", "This would exceed your rate limit.")
            # After the checks: a request that is wrong by itself does not use up a fault.
            fault = self.faults.meet(route.endpoint, call.body)
            if fault is None:
                await self._pause(self.latency)
                return _Outcome(answer=work.finish(None))
            waiting = 0.0 if fault.manner is Manner.DRIP else fault.seconds
            await self._pause(self.latency + waiting)
            answer = work.finish(fault) if fault.works else None
            return _Outcome(fault, answer, fault.problem)
        except Problem as problem:
            return _Outcome(problem=problem)
        except Exception as error:  # kept for the test to fail on, whatever its client makes of it
            self.errors.append(error)
            return _Outcome(problem=Problem(500, "api_error", f"stand-in: {error!r}"))

    def _tell_limits(self, api: Api, reply: Reply) -> None:
        if self.limits is None:
            return
        for name in [name for name in reply.headers if "ratelimit" in name]:
            del reply.headers[name]
        reply.headers |= self.limits.headers(api.id_header)
        if reply.status == 429 and (pause := self.limits.retry_after()) is not None:
            reply.headers["retry-after"] = pause

    def _settle(self, request_id: str, outcome: _Outcome) -> None:
        """Before the first byte of the reply leaves: no client ever knows more than the bill."""
        answer = outcome.answer
        if self.limits is not None and answer is not None:
            usage = answer.usage or {}
            self.limits.produced(usage.get("output_tokens", usage.get("completion_tokens", 0)))
        self.bill.done(
            request_id,
            status=outcome.status,
            fault=outcome.fault.name if outcome.fault else None,
            usd=outcome.usd,
            model=answer.model if answer else None,
            usage=answer.usage if answer else None,
        )

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


def _reply(api: Api, route: Route, request_id: str, outcome: _Outcome) -> Reply:
    headers = {api.id_header: request_id, **route.headers}
    if outcome.problem is not None:
        if outcome.fault and outcome.fault.retry_after is not None:
            headers["retry-after"] = f"{outcome.fault.retry_after:g}"
        shown = api.error(outcome.problem, request_id)
        return Reply(outcome.problem.status, json.dumps(shown).encode(), headers)
    body = outcome.answer.body if outcome.answer else None
    return Reply(200, json.dumps(body).encode(), headers)


def _not_found(call: Call) -> Work:
    raise Problem(404, "not_found_error", f"Not found: {call.path}")


def _marker(call: Call) -> str:
    """What a test can tell a request by: a header of its own, or the metadata's user id."""
    if marker := call.headers.get("x-stand-in-marker"):
        return marker
    try:
        return str(json.loads(call.body)["metadata"]["user_id"])
    except (ValueError, LookupError, TypeError):
        return ""
