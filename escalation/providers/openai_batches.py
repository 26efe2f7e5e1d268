"""OpenAI's batches, through OpenAI's SDK: half the price, back within a day.

A batch is a file of requests, and comes back as two: of answers and of errors. It carries our own
mark, so that one whose id was lost is found by it, or, where a gateway drops the mark, by the names
in its file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from escalation.providers.batch_calls import Response, first_names, id_of, made_id
from escalation.providers.batch_protocol import CallFailed, Found, Part, Remote
from escalation.providers.openai import OpenAISdk, refused
from escalation.providers.protocol import Reply, answered
from escalation.providers.sdk_batches import UNREAD, SdkBatches
from runner.formats.foreign_json import Unreadable, count, one_line
from runner.job import Escalation
from runner.job.former_name import FORMER_NAME

MARK = "surelocal"
_RUNNING = {"validating", "in_progress", "finalizing", "cancelling"}
_STOPPED = {"expired", "cancelled"}


class OpenAIBatches(SdkBatches):
    sdk = OpenAISdk()
    after = "after"
    most_requests = 50_000
    most_bytes = 200_000_000

    def __init__(self, escalation: Escalation) -> None:
        super().__init__(escalation)
        self._files = self._client.files.with_streaming_response

    def _batches(self, client: Any) -> Any:
        return client.batches.with_streaming_response

    async def create(self, parts: Sequence[Part], prefix: str) -> str:
        body = await asyncio.to_thread(_file, parts)
        try:
            file = await self._calls.make(
                lambda: self._files.create(
                    file=("batch.jsonl", body), purpose="batch", timeout=self._upload_s
                ),
                self._upload_s,
            )
            file_id = made_id(file)
        except CallFailed as error:
            # A file costs nothing: until a batch is made of it, nothing is lost.
            known = error.reply.verdict != "unknown"
            reply = error.reply if known else Reply("retry", problem=error.reply.problem)
            raise CallFailed(reply) from None
        made = await self._calls.make(
            lambda: self._raw.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: prefix},
            )
        )
        return made_id(made)

    async def _judge(self, batch_id: str, entry: Mapping[str, Any], prefix: str) -> Found:
        own, names = _marked(entry, prefix), self._names.get(batch_id)
        try:
            if own is None and names is None:  # the list may say less than the batch
                entry = await self._calls.ask(lambda: self._raw.retrieve(batch_id))
                own = _marked(entry, prefix)
                if own is None and (file_id := id_of(entry.get("input_file_id"))):
                    names = await first_names(
                        self._calls.rows(lambda: self._files.content(file_id))
                    )
        except CallFailed as error:
            if error.reply.verdict == "halt":
                raise
        if own is None and not names:
            return Found(None, undecided=f"it may be {batch_id}, whose requests cannot be read")
        if own is None and names:
            self._names[batch_id] = names
            own = any(name.startswith(prefix) for name in names)
        return Found(batch_id if own else None)

    async def look(self, batch_id: str) -> Remote:
        batch = await self._calls.ask(lambda: self._raw.retrieve(batch_id))
        status = batch.get("status")
        status = status if isinstance(status, str) else one_line(status)
        given = [id_of(batch.get(name)) for name in ("output_file_id", "error_file_id")]
        files = tuple(file for file in given if file is not None)
        if status in _RUNNING:
            return Remote(batch_id, ended=False)
        answered = _answered(batch)
        if status == "failed" and not files and not answered:
            return Remote(batch_id, ended=True, problem=self._why(batch))
        known = status in _STOPPED or status in ("completed", "failed")
        return Remote(
            batch_id,
            ended=known or bool(files),
            odd=None if known else status,
            files=files,
            stopped=status in _STOPPED,
            answered=answered,
        )

    def _why(self, batch: Mapping[str, Any]) -> str:
        errors = batch.get("errors")
        listed = errors.get("data") if isinstance(errors, dict) else errors
        said = [
            one_line(error.get("message") or error.get("code"))
            for error in (listed if isinstance(listed, list) else [])[:3]
            if isinstance(error, dict)
        ]
        return self._key.line("; ".join(filter(None, said)) or "the provider refused it")

    def _open(self, batch_id: str, file: str) -> AbstractAsyncContextManager[Response]:
        opened: AbstractAsyncContextManager[Response] = self._files.content(file)
        return opened

    def _reply(self, row: Mapping[str, Any]) -> Reply:
        response, error = row.get("response"), row.get("error")
        if response is None and isinstance(error, dict) and isinstance(error.get("code"), str):
            return Reply("retry", problem=f"{one_line(error['code'])} in its batch")
        if not isinstance(response, dict):
            return UNREAD
        body, request = response.get("body"), response.get("request_id")
        if not isinstance(body, dict):
            return UNREAD
        status, told = _status(response.get("status_code")), isinstance(body.get("error"), dict)
        if status < 400 or not told or body.get("choices") or body.get("usage"):
            return answered(body, request)  # it may be billed, whatever status is beside it
        reply = refused(status, body, self._key, {}, request if isinstance(request, str) else None)
        # Within a batch an error is not billed, whatever it is.
        undone = reply.verdict == "unknown"
        return replace(reply, verdict="retry") if undone else reply

    def _made_at(self, entry: Mapping[str, Any]) -> float | None:
        try:
            return float(count(entry.get("created_at"), most=10**11)) or None
        except Unreadable:
            return None


def _marked(entry: Mapping[str, Any], prefix: str) -> bool | None:
    """Whether the mark that a batch carries is this one; None where it carries none."""
    metadata = entry.get("metadata")
    if not isinstance(metadata, dict):
        return None
    mark = metadata.get(MARK, metadata.get(FORMER_NAME))
    return mark == prefix if isinstance(mark, str) else None


def _answered(batch: Mapping[str, Any]) -> int | None:
    counts = batch.get("request_counts")
    try:
        return count(counts.get("completed")) if isinstance(counts, dict) else None
    except Unreadable:
        return None


def _status(said: object) -> int:
    """Some servers give it as a text."""
    text = str(said) if isinstance(said, (int, str)) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) == 3 else 0


def _file(parts: Sequence[Part]) -> bytes:
    rows = (
        {"custom_id": part.name, "method": "POST", "url": "/v1/chat/completions"}
        | {"body": part.request}
        for part in parts
    )
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
