"""OpenAI's batches, by OpenAI's own SDK: half the price, back within a day.

A batch is a file of requests, and comes back as two: of answers and of errors. It carries our own
mark, so that one whose id was lost is found by it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

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
from escalation.openai import client, failed, refused
from escalation.replies import Key, Reply, Verdict
from runner.job import Escalation

MARK = "localfirst"
_ENDED = {"completed", "failed", "expired", "cancelled"}


class OpenAIBatches:
    most_requests = 50_000
    most_bytes = 200_000_000

    def __init__(self, escalation: Escalation) -> None:
        self._key = Key(escalation.api_key_env, escalation.base_url)
        self._timeout = escalation.timeout_s
        self._client = client(escalation.base_url, self._key, self._timeout, 4)

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        body = await asyncio.to_thread(_file, parts)
        upload = max(self._timeout, UPLOAD_S)
        try:
            async with self._told(upload):
                file = await self._client.files.create(
                    file=("batch.jsonl", body), purpose="batch", timeout=upload
                )
                file_id = str(file.id)
        except CallFailed as error:
            # A file costs nothing: until a batch is made of it, nothing is lost.
            known = error.reply.verdict != "unknown"
            reply = error.reply if known else Reply("retry", problem=error.reply.problem)
            raise CallFailed(reply) from None
        async with self._told(self._timeout):
            made = await self._client.batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: prefix},
            )
            return id_of(made)

    async def find(self, lost: Lost) -> Found:
        async with self._told(UPLOAD_S):
            # Newest first.
            async for batch in self._client.batches.list(limit=100):
                if batch.created_at < lost.begun_at - CLOCKS_APART_S:
                    break
                if (batch.metadata or {}).get(MARK) == lost.prefix:
                    return Found(batch.id)
        return Found(None)

    async def look(self, batch_id: str) -> Remote:
        async with self._told(self._timeout):
            batch = await self._client.batches.retrieve(batch_id)
            problem = None
            if batch.status == "failed":
                errors = batch.errors.data if batch.errors and batch.errors.data else []
                said = "; ".join(str(error.message or error.code) for error in errors[:3])
                problem = self._key.hidden(said or "the provider refused it as a whole")
            return Remote(batch_id, batch.status in _ENDED, problem)

    async def results(self, batch_id: str) -> AsyncGenerator[tuple[str, Reply]]:
        async with self._told(None):
            batch = await self._client.batches.retrieve(batch_id)
            files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
            if not files:
                # What was done would be in a file, and nothing else is billed.
                stopped = batch.status in ("cancelled", "expired")
                verdict: Verdict = "retry" if stopped else "unknown"
                raise ResultsGone(Reply(verdict, problem=f"{batch.status}, without results"))
            for file in files:
                content = self._client.files.with_streaming_response.content(file)
                async with content as response:
                    async for line in response.iter_lines():
                        if (row := self._row(line)) is not None:
                            yield row

    def _row(self, line: str) -> tuple[str, Reply] | None:
        try:
            row = json.loads(line)
            return str(row["custom_id"]), self._reply(row)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _reply(self, row: Mapping[str, Any]) -> Reply:
        if error := row.get("error"):  # it was never begun
            return Reply("retry", problem=f"{error.get('code')} in its batch")
        response = row["response"]
        status, body, request = response["status_code"], response["body"], response["request_id"]
        if status != 200:
            reply = refused(int(status), body, self._key, {}, request)
            # Within a batch an error is not billed, whatever it is.
            undone = reply.verdict == "unknown"
            return Reply("retry", request_id=request, problem=reply.problem) if undone else reply
        if not isinstance(body.get("usage"), dict):
            return Reply("unknown", request_id=request, problem="the result is not readable")
        return Reply("ok", body=body, request_id=request)

    async def cancel(self, batch_id: str) -> None:
        async with self._told(self._timeout):
            await self._client.batches.cancel(batch_id)

    def _told(self, within_s: float | None) -> AbstractAsyncContextManager[None]:
        return telling(self._key, failed, within_s)

    async def aclose(self) -> None:
        await self._client.close()


def _file(parts: Sequence[Part]) -> bytes:
    rows = (
        {"custom_id": part.name, "method": "POST", "url": "/v1/chat/completions"}
        | {"body": part.request}
        for part in parts
    )
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
