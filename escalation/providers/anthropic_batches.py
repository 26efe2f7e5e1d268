"""Claude's Message Batches, by Anthropic's own SDK: half the price, back within a day.

A batch has neither a name nor data of ours: one whose id was lost is known by the time of its
making and, once it has ended, by its parts' names. Its counts tell nothing: they may lag behind.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from escalation.providers.anthropic import client, failed
from escalation.providers.batch_calls import Calls, Response, first_names, made_id
from escalation.providers.batch_listing import Search
from escalation.providers.batch_protocol import UPLOAD_S, CallFailed, Found, Lost, Part, Remote
from escalation.providers.protocol import Key, Reply, Verdict, answered
from runner.formats.foreign_json import one_line
from runner.job import Escalation

PAGE = 100
_RUNNING = {"in_progress", "canceling"}
_UNDONE = {"canceled", "expired"}
_HALTS = {"authentication_error", "permission_error", "billing_error"}
_AGAIN = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}
_UNREAD = Reply("unknown", problem="its result in the batch is none")


class AnthropicBatches:
    most_requests = 100_000
    most_bytes = 256_000_000

    def __init__(self, escalation: Escalation) -> None:
        assert escalation.api_key_env is not None
        self._key = Key(escalation.api_key_env, escalation.base_url)
        self._timeout = escalation.timeout_s
        self._client = client(escalation.base_url, self._key, self._timeout, 4)
        self._raw = self._client.messages.batches.with_streaming_response
        self._calls = Calls(self._key, failed, self._timeout)
        self._names: dict[str, list[str]] = {}

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        requests: Any = [{"custom_id": part.name, "params": part.request} for part in parts]
        upload = max(self._timeout, UPLOAD_S)
        made = await self._calls.make(
            lambda: self._raw.create(requests=requests, timeout=upload), upload
        )
        return made_id(made)

    async def find(self, lost: Lost) -> Found:
        async def page(after: str | None) -> Mapping[str, Any]:
            behind: dict[str, Any] = {} if after is None else {"after_id": after}
            return await self._calls.ask(lambda: self._raw.list(limit=PAGE, **behind))

        async def judge(batch_id: str, entry: Mapping[str, Any]) -> Found:
            return await self._judge(batch_id, lost.prefix)

        return await Search(lost, page, judge, _made_at).found()

    async def _judge(self, batch_id: str, prefix: str) -> Found:
        names = self._names.get(batch_id)
        try:
            if names is None:
                remote = await self.look(batch_id)  # the list may be behind
                if not remote.ended:
                    return Found(None, running=True)
                names = await first_names(self.results(remote))
        except CallFailed as error:
            if error.reply.verdict == "halt":
                raise
        if not names:
            return Found(None, undecided=f"it may be {batch_id}, whose results cannot be read")
        self._names[batch_id] = names
        return Found(batch_id if any(name.startswith(prefix) for name in names) else None)

    async def look(self, batch_id: str) -> Remote:
        batch = await self._calls.ask(lambda: self._raw.retrieve(batch_id))
        status, url = batch.get("processing_status"), batch.get("results_url")
        files = (url,) if isinstance(url, str) and url else ()
        if status == "ended":
            return Remote(batch_id, ended=True, files=files)
        known = status in _RUNNING
        return Remote(
            batch_id,
            ended=not known and bool(files),
            odd=None if known else one_line(status),
            files=() if known else files,
        )

    async def results(self, remote: Remote) -> AsyncGenerator[tuple[str, Reply]]:
        for url in remote.files:
            place = self._place(remote.id, url)
            async with aclosing(self._calls.rows(lambda: self._open(place))) as rows:  # noqa: B023
                async for name, row in rows:
                    yield name, self._reply(row.get("result"))

    def _place(self, batch_id: str, url: str) -> str:
        """Where the results are asked for. The key goes to `base_url` alone: a gateway there passes
        on what its provider says, which is an address of the provider's own."""
        base = str(self._client.base_url).rstrip("/")
        try:
            theirs, ours = urlsplit(url), urlsplit(base)
            same = (theirs.scheme, theirs.netloc) == (ours.scheme, ours.netloc)
        except ValueError:
            same = False
        return url if same else f"{base}/v1/messages/batches/{quote(batch_id, safe='')}/results"

    @asynccontextmanager
    async def _open(self, url: str) -> AsyncIterator[Response]:
        from anthropic import AsyncAPIResponse

        headers = {"Accept": "application/binary", "X-Stainless-Raw-Response": "stream"}
        response = await self._client.get(
            url, cast_to=AsyncAPIResponse[bytes], options={"headers": headers}
        )
        try:
            yield response
        finally:
            await response.close()

    def _reply(self, result: object) -> Reply:
        if not isinstance(result, dict):
            return _UNREAD
        kind, message, error = result.get("type"), result.get("message"), result.get("error")
        if kind == "succeeded" and isinstance(message, dict):
            return answered(message, message.get("id"))
        if message is not None:
            return _UNREAD  # it was answered, whatever else is said of it
        if kind in _UNDONE:
            return Reply("retry", problem=f"{kind} in its batch")
        inner = error.get("error", error) if isinstance(error, dict) else None
        if kind != "errored" or not isinstance(inner, dict):
            return _UNREAD
        what = inner.get("type")
        verdict: Verdict = (
            "halt" if what in _HALTS else "retry" if what in _AGAIN else "reject"
        ) if isinstance(what, str) else "unknown"  # fmt: skip
        return Reply(verdict, problem=self._key.line(f"{one_line(what)}:", inner.get("message")))

    async def cancel(self, batch_id: str) -> None:
        await self._calls.tell(lambda: self._raw.cancel(batch_id))

    async def aclose(self) -> None:
        await self._client.close()


def _made_at(entry: Mapping[str, Any]) -> float | None:
    """The time of an entry of the list; None where it says none."""
    try:
        at = datetime.fromisoformat(entry["created_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
