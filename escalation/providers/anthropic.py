"""Claude, by Anthropic's own SDK.

`Anthropic` builds requests and reads replies; `AnthropicWire` sends them. The SDK's own retries
are off: it would send again after a dropped connection, and be billed again, without our books
knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from escalation.providers.protocol import (
    CONNECT_S,
    LABEL,
    Bill,
    Key,
    Reply,
    Verdict,
    overloaded,
    part_of,
    received,
    redirected,
    seconds,
    served,
    text_of,
    tokens,
    unanswered,
    unconnected,
    unexpected,
)
from escalation.providers.rate_headers import anthropic_limits
from runner.errors import UsageError
from runner.formats.foreign_json import Unreadable, clipped, one_line
from runner.job import Escalation
from runner.types import Completion, Constraint, Prompt, Usage

if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncAnthropic

URL = "https://api.anthropic.com"
_SPEND_LIMITS = {
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
}


class Anthropic:
    name = "anthropic"
    url = URL

    def __init__(self, escalation: Escalation) -> None:
        self._escalation = escalation
        self._format: tuple[Constraint, dict[str, Any] | None] | None = None

    def request(self, prompt: Prompt) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if self._escalation.effort:
            settings["effort"] = self._escalation.effort
        if answer := self._answer_format(prompt.constraint):
            settings["format"] = {"type": "json_schema", "schema": answer}
        system = [
            {"type": "text", "text": m.content}
            | ({"cache_control": {"type": "ephemeral"}} if m.cacheable else {})
            for m in prompt.messages
            if m.role == "system"
        ]
        body = {
            "max_tokens": self._escalation.max_tokens,
            "messages": [
                {"role": m.role, "content": m.content}
                for m in prompt.messages
                if m.role != "system"
            ],
            "model": self._escalation.model,
            "output_config": settings,
            "service_tier": "standard_only",
            "system": system,
        }
        return {key: value for key, value in body.items() if value}

    def _answer_format(self, constraint: Constraint) -> dict[str, Any] | None:
        """The constraint as a schema that the API takes; built once for a job."""
        if self._format is None or self._format[0] is not constraint:
            self._format = (constraint, _schema_of(constraint))
        return self._format[1]

    def completion(self, body: Mapping[str, Any]) -> Completion:
        try:
            return Completion(
                text=_text(body.get("content")),
                model=one_line(text_of(body, "model") or self._escalation.model, 200),
                finish_reason=text_of(body, "stop_reason") or "no stop_reason",
            )
        except Unreadable as error:
            raise ValueError(f"the reply is no Message: {error}") from None

    def bill(self, body: Mapping[str, Any]) -> Bill:
        usage = part_of(body, "usage")
        created = part_of(usage, "cache_creation")
        written = tokens(usage, "cache_creation_input_tokens")
        hour = tokens(created, "ephemeral_1h_input_tokens")
        minutes = tokens(created, "ephemeral_5m_input_tokens")
        return Bill(
            Usage(
                input_tokens=tokens(usage, "input_tokens", needed=True),
                output_tokens=tokens(usage, "output_tokens", needed=True),
                # Where the sum and its parts differ, the larger may be what is billed.
                cache_write_5m=max(written - hour, minutes),
                cache_write_1h=hour,
                cache_read=tokens(usage, "cache_read_input_tokens"),
            ),
            served(usage, "inference_geo", "service_tier", "speed"),
        )


def _text(blocks: object) -> str:
    """Of a Message's content; blocks of other kinds say nothing."""
    if not isinstance(blocks, list):
        raise Unreadable(f"content: {clipped(blocks)} is no list")
    texts = []
    for block in blocks:
        if not isinstance(block, dict):
            raise Unreadable(f"content: {clipped(block)} is no block")
        if block.get("type") == "text":
            text = text_of(block, "text")
            if text is None:
                raise Unreadable("content: a block of text without one")
            texts.append(text)
    return "".join(texts)


def _schema_of(constraint: Constraint) -> dict[str, Any] | None:
    if constraint.labels:
        labels = {"type": "string", "enum": list(constraint.labels)}
        return {
            "type": "object",
            "properties": {LABEL: labels},
            "required": [LABEL],
            "additionalProperties": False,
        }
    if constraint.schema is None:
        return None
    try:
        from anthropic import transform_schema
    except ImportError:
        raise UsageError("the anthropic package is missing; install surelocal again") from None
    try:
        schema: dict[str, Any] = transform_schema(_typed(dict(constraint.schema)))
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"`answer.schema` is not one that the API takes: {error}") from None
    return schema


def _typed(schema: Any) -> Any:
    """With ``type: [string, "null"]`` spelled as ``anyOf``, the one way that the SDK knows."""
    if isinstance(schema, list):
        return [_typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    names = schema.get("properties")
    plain = {k: v if k in ("enum", "const") else _typed(v) for k, v in schema.items()}
    if isinstance(names, dict):
        plain["properties"] = {name: _typed(rule) for name, rule in names.items()}
    kinds = plain.get("type")
    if not isinstance(kinds, list):
        return plain
    del plain["type"]
    if "enum" in plain or "const" in plain:
        return plain
    return {"anyOf": [plain | {"type": kind} for kind in kinds]}


def client(
    base_url: str | None, key: Key, timeout_s: float, concurrency: int, *, bounded: bool = False
) -> AsyncAnthropic:
    """The SDK's, without retries of its own; ``bounded``: no reply is read without end."""
    import httpx2
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    from escalation.providers.bodies import http_settings

    return AsyncAnthropic(
        api_key=key.value,
        base_url=base_url or URL,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        http_client=DefaultAsyncHttpxClient(**http_settings(concurrency, bounded=bounded)),
        open_telemetry=False,
    )


class AnthropicWire:
    """Sends requests; ``timeout_s`` bounds each as a whole, a dripping body included."""

    def __init__(
        self, base_url: str | None, key_env: str, timeout_s: float, concurrency: int
    ) -> None:
        self._timeout = timeout_s
        self._key = Key(key_env, base_url)
        self._client = client(base_url, self._key, timeout_s, concurrency, bounded=True)

    async def send(self, request: Mapping[str, Any]) -> Reply:
        if self._key.problem:
            return Reply("halt", problem=self._key.problem)
        try:
            create = self._client.messages.with_raw_response.create(**request)
            raw = await asyncio.wait_for(create, self._timeout)
            content = raw.http_response.content
        except Exception as error:
            return failed(error, self._key, self._timeout)
        return received(content, raw.request_id, anthropic_limits(raw.http_response.headers))

    async def aclose(self) -> None:
        await self._client.close()


def failed(error: Exception, key: Key, timeout_s: float) -> Reply:
    """What the SDK's error says of the money."""
    from anthropic import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return _refused(error, key)
    if isinstance(error, APIConnectionError):
        return unconnected(error, key, timeout_s)
    return unanswered(timeout_s) if isinstance(error, TimeoutError) else unexpected(error, key)


def _refused(error: APIStatusError, key: Key) -> Reply:
    status, headers = error.status_code, error.response.headers
    verdict = _verdict(error)
    problem = key.line(str(status), error.api_message or error.type)
    if 300 <= status < 400:
        problem = redirected(status, headers.get("location"), key)
    pause = seconds(headers.get("retry-after"))
    return Reply(
        verdict,
        request_id=error.request_id and key.line(error.request_id),
        problem=problem,
        retry_after_s=pause,
        overloaded=verdict == "retry" and overloaded(status, pause),
        limits=anthropic_limits(headers),
    )


def _verdict(error: APIStatusError) -> Verdict:
    status = error.status_code
    limited = "usage limits" in one_line(error.api_message)
    if error.error_code in _SPEND_LIMITS or status in (401, 402, 403) or limited:
        return "halt"
    if 300 <= status < 400:
        return "halt"  # it would be so for every request, and nothing was done
    if status in (408, 429, 503, 529):
        return "retry"
    return "unknown" if status >= 500 or status < 300 else "reject"
