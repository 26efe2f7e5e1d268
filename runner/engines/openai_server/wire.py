"""One request to an OpenAI-compatible server and its reply, bounded in time, size and depth.

Nothing here is sent again, and the address that the job names is the only one that sees a record.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from runner.engines.openai_server.stream import EVENTS, put_together
from runner.errors import UsageError
from runner.formats.foreign_json import MOST_BYTES, Unreadable, one_line, parse, whole
from runner.formats.own_requests import own_requests

if TYPE_CHECKING:
    import httpx2

_CONNECTS_WITHIN_S = 10.0
_MOST_WORDS = 500
# Statuses of a server that is full, starts, or is being started behind a proxy.
_BUSY = {408, 409, 425, 429, 502, 503, 504, 529}
_LOADING = re.compile(r"\bloading\b|not (yet )?ready|start(ing|s) up|warming up", re.I)
_DIGITS = re.compile(r"[0-9a-f]*\d[0-9a-f]*", re.I)


class Kind(StrEnum):
    """What an unanswered request speaks of."""

    GONE = "gone"
    """There is no connection, or it ended before the reply did."""
    LATE = "late"
    BUSY = "busy"
    FAILED = "failed"
    """A reply came, and it is an error of the server's or cannot be read."""
    REFUSED = "refused"


@dataclass(eq=False)
class Trouble(Exception):
    """Why a request has no answer. ``words``: the server's own, or a clause of ours; one line."""

    kind: Kind
    words: str
    status: int | None = None

    def same_as(self, other: Trouble) -> bool:
        """Whether the other is the same mistake, numbers and request ids aside."""
        mine, theirs = (_DIGITS.sub("#", each.words) for each in (self, other))
        return (self.kind, self.status, mine) == (other.kind, other.status, theirs)


class Wire:
    """Posts to ``/chat/completions`` of the server at ``base_url``; for one event loop."""

    def __init__(self, base_url: str, key: str | None) -> None:
        import httpx2

        self._key = (key or "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError("what is in the variable of local.api_key_env cannot be a key")
        headers = {
            "Authorization": f"Bearer {self._key or 'none'}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # what is read is what was sent, no more
        }
        try:
            parts = urlsplit(base_url)
            path = parts.path.rstrip("/") + "/chat/completions"
            self._url = httpx2.URL(urlunsplit(parts._replace(path=path)))
        except (ValueError, httpx2.InvalidURL) as error:
            raise UsageError(f"local.base_url is no address: {error}") from None
        self._client = httpx2.AsyncClient(
            **own_requests(),
            headers=headers,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=httpx2.Timeout(None, connect=_CONNECTS_WITHIN_S),
        )

    async def post(self, body: Mapping[str, Any], within_s: float) -> Any:
        """The reply's JSON; ``within_s`` bounds all of it, from the connection to the last byte.

        Raises:
            Trouble: there is none.
            UsageError: the body holds what JSON cannot.
        """
        sent = _encoded(body)
        try:
            async with asyncio.timeout(within_s):
                async with self._client.stream("POST", self._url, content=sent) as reply:
                    content = await _read(reply)
        except TimeoutError:
            raise Trouble(Kind.LATE, f"no whole answer within {within_s:g} s") from None
        except Unreadable as error:
            raise Trouble(Kind.FAILED, f"its reply is {error}") from None
        except Exception as error:  # the transport's own kinds, and whatever else an odd reply does
            raise Trouble(Kind.GONE, self._plain(str(error) or type(error).__name__)) from None
        return self._parsed(reply, content)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _parsed(self, reply: httpx2.Response, content: bytes) -> Any:
        status = reply.status_code
        if status // 100 != 2:
            raise self._error(status, content)
        try:
            if reply.headers.get("content-type", "").startswith(EVENTS) or content.startswith(
                b"data:"
            ):
                body = put_together(content)
            else:
                body = parse(content, odd_numbers=True)
        except Unreadable as error:
            raise Trouble(Kind.FAILED, f"its reply is {error}", status) from None
        if isinstance(body, dict) and not body.get("choices") and (said := _said(body)):
            code = body.get("code", status)
            known = isinstance(code, int) and 400 <= code < 600
            raise _trouble(code if known else 500, self._plain(said))
        return body

    def _error(self, status: int, content: bytes) -> Trouble:
        if status // 100 == 3:
            return Trouble(
                Kind.REFUSED, "it redirects, and no redirect is followed: name the place itself",
                status,
            )  # fmt: skip
        try:
            said = _said(parse(content, odd_numbers=True))
        except Unreadable:
            said = content[: 4 * _MOST_WORDS].decode("utf-8", "replace")
        return _trouble(status, self._plain(said or _phrase(status)))

    def _plain(self, said: str) -> str:
        """The first line, without control codes and without the key, which servers repeat."""
        if len(self._key) > 1:
            said = said.replace(self._key, "(the key)")
        first = next((line for line in whole(said).splitlines() if line.strip()), "nothing")
        return one_line(first, _MOST_WORDS)


def _trouble(status: int, words: str) -> Trouble:
    if status in _BUSY or (status not in (400, 422) and _LOADING.search(words)):
        return Trouble(Kind.BUSY, words, status)
    return Trouble(Kind.FAILED if status >= 500 else Kind.REFUSED, words, status)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return whole(json.dumps(body, ensure_ascii=False, allow_nan=False)).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(f"local.engine_args or local.sampling: {error}") from None


async def _read(reply: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in reply.aiter_bytes():
        content += chunk
        if len(content) > MOST_BYTES:
            raise Unreadable(f"over {MOST_BYTES:,} bytes")
    return bytes(content)


def _said(body: Any) -> str:
    """The message of an error's body: each server has a place of its own for it."""
    if isinstance(body, Mapping) and body.get("error"):
        body = body["error"]
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail")
    return body if isinstance(body, str) else json.dumps(body) if body else ""


def _phrase(status: int) -> str:
    try:
        return f"status {status}, {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"
