"""Claude's Message Batches, through Anthropic's SDK: half the price, back within a day.

A batch has neither a name nor data of ours: one whose id was lost is known by the time of its
making and, once it has ended, by its parts' names. Its counts tell nothing: they may lag behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from escalation.providers.anthropic import AnthropicSdk
from escalation.providers.batch_calls import Response, first_names, made_id
from escalation.providers.batch_protocol import CallFailed, Found, Part, Remote
from escalation.providers.protocol import Reply, Verdict, answered
from escalation.providers.sdk_batches import UNREAD, SdkBatches
from runner.formats.foreign_json import one_line

_RUNNING = {"in_progress", "canceling"}
_UNDONE = {"canceled", "expired"}
_HALTS = {"authentication_error", "permission_error", "billing_error"}
_AGAIN = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}


class AnthropicBatches(SdkBatches):
    sdk = AnthropicSdk()
    after = "after_id"
    most_requests = 100_000
    most_bytes = 256_000_000

    def _batches(self, client: Any) -> Any:
        return client.messages.batches.with_streaming_response

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        requests: Any = [{"custom_id": part.name, "params": part.request} for part in parts]
        made = await self._calls.make(
            lambda: self._raw.create(requests=requests, timeout=self._upload_s), self._upload_s
        )
        return made_id(made)

    async def _judge(self, batch_id: str, entry: Mapping[str, Any], prefix: str) -> Found:
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

    def _open(self, batch_id: str, file: str) -> AbstractAsyncContextManager[Response]:
        return self._got(self._place(batch_id, file))

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
    async def _got(self, url: str) -> AsyncIterator[Response]:
        from anthropic import AsyncAPIResponse

        headers = {"Accept": "application/binary", "X-Stainless-Raw-Response": "stream"}
        response = await self._client.get(
            url, cast_to=AsyncAPIResponse[bytes], options={"headers": headers}
        )
        try:
            yield response
        finally:
            await response.close()

    def _reply(self, row: Mapping[str, Any]) -> Reply:
        result = row.get("result")
        if not isinstance(result, dict):
            return UNREAD
        kind, message, error = result.get("type"), result.get("message"), result.get("error")
        if kind == "succeeded" and isinstance(message, dict):
            return answered(message, message.get("id"))
        if message is not None:
            return UNREAD  # it was answered, whatever else is said of it
        if kind in _UNDONE:
            return Reply("retry", problem=f"{kind} in its batch")
        inner = error.get("error", error) if isinstance(error, dict) else None
        if kind != "errored" or not isinstance(inner, dict):
            return UNREAD
        what = inner.get("type")
        verdict: Verdict = (
            "halt" if what in _HALTS else "retry" if what in _AGAIN else "reject"
        ) if isinstance(what, str) else "unknown"  # fmt: skip
        return Reply(verdict, problem=self._key.line(f"{one_line(what)}:", inner.get("message")))

    def _made_at(self, entry: Mapping[str, Any]) -> float | None:
        try:
            at = datetime.fromisoformat(entry["created_at"])
        except (KeyError, TypeError, ValueError):
            return None
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
