"""The endpoints: who may ask, how much at once, and for how long."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from runner.errors import SureLocalError
from runner.serve.answered import Answered
from runner.serve.guard import Guard
from runner.serve.intake import Asked, Intake
from runner.serve.metrics import CONTENT_TYPE, Metrics
from runner.serve.options import ServeOptions
from runner.serve.replies import Refusal, chunks, completion, own_headers, own_words, refusal
from runner.serve.serving import ClientGone, Serving, Taken
from runner.serve.telling import End, attributes, log

Fatal = Callable[[SureLocalError], None]
BUSY_S = 1
CLIENT_CLOSED = 499


class Desk:
    """What the endpoints need. ``fatal`` hears of what no further request can survive."""

    def __init__(
        self,
        serving: Serving,
        intake: Intake,
        options: ServeOptions,
        metrics: Metrics,
        fatal: Fatal,
    ) -> None:
        self.serving = serving
        self.intake = intake
        self.options = options
        self.model = intake.model
        self.begun = int(time.time())
        self.at_work = 0
        self.metrics = metrics
        self._fatal = fatal

    async def completion(self, request: Request) -> Response:
        began = time.monotonic()
        with self.serving.tracing.request("chat", request.headers) as span:
            asked, end = await self._ended(request)
            if isinstance(end, Answered):
                reply = self._reply(asked, end)
            else:
                reply = refused(end) if end else Response(status_code=CLIENT_CLOSED)
            seconds = time.monotonic() - began
            if span is not None:
                span.set_attributes(attributes(self.model, reply.status_code, end))
        self.metrics.replied(reply.status_code, seconds if isinstance(end, Answered) else None)
        log(reply.status_code, seconds, end, private=self.intake.private)
        return reply

    async def _ended(self, request: Request) -> tuple[Asked, End]:
        """Without an answer, with why not, or with nothing: then its client has gone."""
        asked: Any = None
        try:
            with self._room():
                asked = await self._asked(request)
                return asked, await self._answered(asked, request)
        except Refused as error:
            self.metrics.refused(error.refusal.status)
            return asked, error.refusal
        except ClientGone:
            return asked, None

    def _reply(self, asked: Asked, answered: Answered) -> Response:
        own = own_words(answered, calibrated=self.serving.calibrated)
        said = refusal(asked, answered, own)
        if said is not None:
            return refused(said, own_headers(own))
        body, headers = completion(answered, own), own_headers(own) | _request_id()
        if not asked.stream:
            return JSONResponse(body, headers=headers)
        events = _sent(chunks(body, include_usage=asked.include_usage))
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self.at_work >= self.options.max_concurrent:
            message = (
                f"{self.at_work:,} requests are at work, and no more are taken at once "
                "(`--max-concurrent`); ask again in a moment"
            )
            raise Refused(429, "too_many_requests", message, again=True, retry_after_s=BUSY_S)
        self.at_work += 1
        try:
            with self.metrics.in_flight.track_inprogress():
                yield
        finally:
            self.at_work -= 1

    async def _asked(self, request: Request) -> Asked:
        try:
            async with asyncio.timeout(min(self.options.limits.body_s, self.options.timeout_s)):
                raw = await _body(request, self.options.max_body)
        except TimeoutError:
            raise Refused(408, "timeout", "the request's body did not come in time") from None
        try:
            body = json.loads(raw, parse_constant=_no_number)
            if b"\\ud" in raw.lower():
                json.dumps(body, ensure_ascii=False).encode()  # halves of characters fail here
        except (ValueError, RecursionError):
            raise Refused(400, "invalid_json", "the request's body is not JSON") from None
        try:
            return self.intake.asked(body, request.headers)
        except ValueError as error:
            raise Refused(400, "invalid_request", str(error)) from None

    async def _answered(self, asked: Asked, request: Request) -> Answered:
        try:
            async with asyncio.timeout(self.options.timeout_s):
                return await self.serving.answer(asked, request.is_disconnected)
        except TimeoutError:
            message = (
                f"no answer within {self.options.timeout_s:g} s (`--timeout`); it is settled as "
                f"record {asked.id} when it comes"
            )
            raise Refused(504, "timeout", message) from None
        except Taken:
            message = f"the record {asked.id} is another request's; give this one another id"
            raise Refused(409, "record_id_taken", message) from None
        except SureLocalError as error:
            self._fatal(error)
            raise Refused(500, "server_stopping", f"the server is stopping: {error}") from None

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._model()]}

    def one_model(self, name: str) -> dict[str, Any] | Response:
        if name == self.model:
            return self._model()
        message = (
            f"there is no model {name!r} here; {self.model!r} is served, whatever is asked for"
        )
        return refused(Refusal(404, "model_not_found", message))

    def _model(self) -> dict[str, Any]:
        whose = {"object": "model", "created": self.begun, "owned_by": "surelocal"}
        return {"id": self.model} | whose

    def health(self) -> dict[str, Any]:
        stopped = self.serving.stopped
        return {"status": "ok", "at_work": self.at_work, "escalation": stopped or "on"}


class Refused(Exception):
    """Raised with what `Refusal` takes."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.refusal = Refusal(status, code, message, **more)


def make_app(desk: Desk, guard: Guard) -> FastAPI:
    """The application. It has no pages of its own: those load scripts from elsewhere."""
    app = FastAPI(title="surelocal", openapi_url=None, docs_url=None, redoc_url=None)

    # A plain route: the body is read by hand, and what FastAPI would look for is not there.
    app.add_route("/v1/chat/completions", desk.completion, methods=["POST"])

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return desk.models()

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> dict[str, Any] | Response:
        return desk.one_model(name)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return desk.health()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type=CONTENT_TYPE)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}; here are POST "
        message += "/v1/chat/completions and GET /v1/models"
        return refused(Refusal(error.status_code, "not_found", message))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        message = f"{type(error).__name__}: this is a mistake of the server's; its words have more"
        return refused(Refusal(500, "internal_error", message))

    app.add_middleware(_Door, guard=guard)
    return app


class _Door:
    """Turns away before anything of a request is read."""

    def __init__(self, app: Any, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        said = self._guard.refuses(scope) if scope["type"] == "http" else None
        await (self._app if said is None else refused(said))(scope, receive, send)


def refused(said: Refusal, headers: dict[str, str] | None = None) -> Response:
    headers = said.headers() | _request_id() | (headers or {})
    return JSONResponse(said.body(), said.status, headers)


async def _body(request: Request, most: int) -> bytes:
    """Read no further than it may be long."""
    too_long = Refused(413, "too_large", f"the request's body has more than {most:,} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_long
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > most:
            raise too_long
    return bytes(found)


async def _sent(events: Iterable[str]) -> AsyncIterator[str]:
    for event in events:
        yield event


def _request_id() -> dict[str, str]:
    return {"x-request-id": f"req_{uuid.uuid4().hex}"}


def _no_number(text: str) -> Any:
    raise ValueError(text)
