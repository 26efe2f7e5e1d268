"""Paid calls through a provider's own SDK: each made once, bounded in time and size, and read for
what it says of the money.

`Sdk` is one provider's, and `SdkWire` sends through it. SDKs made by the same generator, as
Anthropic's and OpenAI's are, name their HTTP client, errors and raw replies alike. Their own
retries are off: they would send again after a dropped connection, and be billed again, without our
books knowing.
"""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from escalation.providers.protocol import Key, Reply, Verdict, overloaded, received, unanswered
from escalation.providers.rate_headers import Limits
from runner.formats.foreign_json import Unreadable

CONNECT_S = 10.0
"""For a connection alone: a host that does not take one is not waited for as a long answer is."""


class Sdk(ABC):
    """``package`` is imported when the first client is made."""

    package: ClassVar[str]

    @abstractmethod
    def client(self, key: Key, **settings: Any) -> Any:
        """Its client, with these settings and its own."""

    @abstractmethod
    def asks(self, client: Any) -> Callable[..., Awaitable[Any]]:
        """The client's call for one answer, which gives the raw reply."""

    @abstractmethod
    def refused(self, error: Any, key: Key) -> Reply:
        """What a reply with an error's status says of the money."""

    @abstractmethod
    def limits(self, headers: Mapping[str, str]) -> Limits: ...

    def connect(
        self, address: str, key: Key, timeout_s: float, concurrency: int, *, bounded: bool = False
    ) -> Any:
        """A client without retries of its own; ``bounded``: no reply is read without end."""
        import httpx2

        from escalation.providers.bodies import http_settings

        package = importlib.import_module(self.package)
        return self.client(
            key,
            base_url=address,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
            http_client=package.DefaultAsyncHttpxClient(
                **http_settings(concurrency, bounded=bounded)
            ),
        )

    def failed(self, error: Exception, key: Key, timeout_s: float) -> Reply:
        """What the SDK's error says of the money."""
        package = importlib.import_module(self.package)
        if isinstance(error, package.APIStatusError):
            return self.refused(error, key)
        if isinstance(error, package.APIConnectionError):
            return _unconnected(error, key, timeout_s)
        if isinstance(error, TimeoutError):
            return unanswered(timeout_s)
        # Whatever else the SDK or its transport raises, the call may have been billed.
        return Reply("unknown", problem=key.line(f"{type(error).__name__}: {error}"))


class SdkWire:
    """Sends requests; ``timeout_s`` bounds each as a whole, a dripping body included."""

    sdk: ClassVar[Sdk]

    def __init__(
        self, address: str, key_env: str | None, timeout_s: float, concurrency: int
    ) -> None:
        self._timeout = timeout_s
        self._key = Key(key_env, address)
        self._client = self.sdk.connect(address, self._key, timeout_s, concurrency, bounded=True)

    async def send(self, request: Mapping[str, Any]) -> Reply:
        if self._key.problem:
            return Reply("halt", problem=self._key.problem)
        try:
            raw = await asyncio.wait_for(self.sdk.asks(self._client)(**request), self._timeout)
            content = raw.http_response.content
        except Exception as error:
            return self.sdk.failed(error, self._key, self._timeout)
        return received(content, raw.request_id, self.sdk.limits(raw.http_response.headers))

    async def aclose(self) -> None:
        await self._client.close()


def verdict_of(status: int) -> Verdict:
    """By an error's status alone."""
    if status in (401, 402, 403):
        return "halt"
    if 300 <= status < 400:
        return "halt"  # it would be so for every request, and nothing was done
    if status in (408, 429, 503, 529):
        return "retry"
    return "unknown" if status >= 500 or status < 300 else "reject"


def completed(reply: Reply, status: int, headers: Mapping[str, str], key: Key) -> Reply:
    """The reply to an error, with what its status says whoever sent it."""
    redirect = 300 <= status < 400
    return replace(
        reply,
        request_id=reply.request_id and key.line(reply.request_id),
        problem=_redirected(status, headers.get("location"), key) if redirect else reply.problem,
        overloaded=reply.verdict == "retry" and overloaded(status, reply.retry_after_s),
    )


def _unconnected(error: Exception, key: Key, timeout_s: float) -> Reply:
    """Without a connection nothing has left, and once there was one the call may have been
    billed."""
    import httpx2

    cause = error.__cause__
    if isinstance(cause, Unreadable):
        return Reply("unknown", problem=key.line(f"the reply's body is {cause}"))
    unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    if isinstance(cause, httpx2.TimeoutException) and not unsent:
        return unanswered(timeout_s)
    why = str(cause or "") or type(cause or error).__name__
    problem = key.line(f"the connection failed: {why}")
    verdict: Verdict = "retry" if unsent else "unknown"
    return Reply(verdict, problem=problem, overloaded=unsent, unreachable=unsent)


def _redirected(status: int, location: str | None, key: Key) -> str:
    """The sentence for a reply that names another address: the text goes to no other."""
    try:
        parts = urlsplit(location or "")
        port = f":{parts.port}" if parts.port else ""
        where = f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else parts.path
    except ValueError:
        where = ""
    return key.line(
        f"{status}: `escalation.base_url` redirects to {where or 'nowhere'}, and redirects are not "
        "followed; set `escalation.base_url` to the API's own address"
    )
