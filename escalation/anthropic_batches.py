"""Claude's Message Batches, by Anthropic's own SDK: half the price, back within a day.

A batch has neither a name nor data of ours: one whose id was lost is known by the time of its
making, its size and, once it has ended, its parts' names.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from escalation.anthropic import client, failed
from escalation.batches import (
    CLOCKS_APART_S,
    UPLOAD_S,
    CallFailed,
    Found,
    Lost,
    Part,
    Remote,
    ResultsGone,
    id_of,
    telling,
)
from escalation.replies import Key, Reply, Verdict
from runner.job import Escalation

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

_HALTS = {"authentication_error", "permission_error", "billing_error"}
_UNDONE = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}


class AnthropicBatches:
    most_requests = 100_000
    most_bytes = 256_000_000

    def __init__(self, escalation: Escalation) -> None:
        assert escalation.api_key_env is not None
        self._key = Key(escalation.api_key_env, escalation.base_url)
        self._timeout = escalation.timeout_s
        self._client = client(escalation.base_url, self._key, self._timeout, 4)

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        requests: Any = [{"custom_id": part.name, "params": part.request} for part in parts]
        upload = max(self._timeout, UPLOAD_S)
        async with self._told(upload):
            made = await self._client.messages.batches.create(requests=requests, timeout=upload)
            return id_of(made)

    async def find(self, lost: Lost) -> Found:
        undecided = False
        async with self._told(UPLOAD_S):
            # Newest first.
            async for batch in self._client.messages.batches.list(limit=100):
                if batch.created_at.timestamp() < lost.begun_at - CLOCKS_APART_S:
                    break
                if batch.id in lost.known or _size(batch) != lost.requests:
                    continue
                if batch.processing_status != "ended":
                    undecided = True
                    continue
                own = await self._own_parts(batch.id, lost.prefix)
                if own:
                    return Found(batch.id)
                undecided = undecided or own is None
        return Found(None, undecided)

    async def _own_parts(self, batch_id: str, prefix: str) -> bool | None:
        """Whether they are the lost batch's; None where none can be read."""
        seen = False
        async with aclosing(self.results(batch_id)) as rows:
            async for name, _ in rows:
                if name.startswith(prefix):
                    return True
                seen = True
        return False if seen else None

    async def look(self, batch_id: str) -> Remote:
        async with self._told(self._timeout):
            batch = await self._client.messages.batches.retrieve(batch_id)
            return Remote(batch_id, batch.processing_status == "ended")

    async def results(self, batch_id: str) -> AsyncGenerator[tuple[str, Reply]]:
        batches = self._client.messages.batches
        async with self._told(None):
            batch = await batches.retrieve(batch_id)
            if batch.archived_at is not None or not batch.results_url:
                raise ResultsGone(Reply("unknown", problem="its results are no longer kept"))
            self._same_host(batch.results_url)
            async with batches.with_streaming_response.results(batch_id) as response:
                async for line in response.iter_lines():
                    if (row := self._row(line)) is not None:
                        yield row

    def _same_host(self, url: str) -> None:
        """The SDK sends the key to wherever a batch says that its results are."""
        theirs, ours = urlsplit(url), urlsplit(str(self._client.base_url))
        if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
            problem = f"its results are said to be at {theirs.netloc}, where the key is not sent"
            raise CallFailed(Reply("halt", problem=problem))

    def _row(self, line: str) -> tuple[str, Reply] | None:
        try:
            row = json.loads(line)
            return str(row["custom_id"]), self._reply(row["result"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _reply(self, result: Mapping[str, Any]) -> Reply:
        kind = result["type"]
        if kind == "succeeded":
            message = result["message"]
            if not isinstance(message.get("usage"), dict):
                return Reply("unknown", problem="the result's message is not readable")
            return Reply("ok", body=message, request_id=message.get("id"))
        if kind != "errored":
            return Reply("retry", problem=f"{kind} in its batch")
        error = result["error"]
        error = error.get("error", error)
        verdict: Verdict = "reject"
        if error.get("type") in _HALTS:
            verdict = "halt"
        elif error.get("type") in _UNDONE:
            verdict = "retry"
        problem = f"{error.get('type')}: {error.get('message')}"
        return Reply(verdict, problem=self._key.hidden(problem))

    async def cancel(self, batch_id: str) -> None:
        async with self._told(self._timeout):
            await self._client.messages.batches.cancel(batch_id)

    def _told(self, within_s: float | None) -> AbstractAsyncContextManager[None]:
        return telling(self._key, failed, within_s)

    async def aclose(self) -> None:
        await self._client.close()


def _size(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
