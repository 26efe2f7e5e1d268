"""Claude, by Anthropic's own SDK.

`Anthropic` builds requests and reads replies; `AnthropicWire` sends them. The SDK's own retries
are off: it would send again after a dropped connection, and be billed again, without our books
knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from escalation.limits import anthropic_limits
from escalation.replies import (
    CONNECT_S,
    LABEL,
    Key,
    Reply,
    Verdict,
    overloaded,
    received,
    seconds,
    unanswered,
    unconnected,
    unwrap,
)
from runner.errors import UsageError
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
            usage = body["usage"]
            created = usage.get("cache_creation") or {}
            written_1h = created.get("ephemeral_1h_input_tokens") or 0
            written = usage.get("cache_creation_input_tokens") or 0
            text = "".join(b["text"] for b in body["content"] if b.get("type") == "text")
            return Completion(
                text=unwrap(text),
                model=str(body["model"]),
                finish_reason=str(body["stop_reason"]),
                usage=Usage(
                    input_tokens=int(usage["input_tokens"]),
                    output_tokens=int(usage["output_tokens"]),
                    cache_write_5m=written - written_1h,
                    cache_write_1h=written_1h,
                    cache_read=usage.get("cache_read_input_tokens") or 0,
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the reply is no Message: {error!r}") from None


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
        raise UsageError("the anthropic package is missing; install localfirst again") from None
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


def client(base_url: str | None, key: Key, timeout_s: float, concurrency: int) -> AsyncAnthropic:
    """The SDK's, without retries of its own."""
    import httpx2
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    return AsyncAnthropic(
        api_key=key.value,
        base_url=base_url or URL,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        http_client=DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=concurrency)),
        open_telemetry=False,
    )


class AnthropicWire:
    """Sends requests; ``timeout_s`` bounds each as a whole, a dripping body included."""

    def __init__(
        self, base_url: str | None, key_env: str, timeout_s: float, concurrency: int
    ) -> None:
        self._timeout = timeout_s
        self._key = Key(key_env)
        self._client = client(base_url, self._key, timeout_s, concurrency)

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
    if isinstance(error, TimeoutError):
        return unanswered(timeout_s)
    # Whatever else the SDK or its transport raises, the call may have been billed.
    return Reply("unknown", problem=key.hidden(f"{type(error).__name__}: {error}"))


def _refused(error: APIStatusError, key: Key) -> Reply:
    limited = "usage limits" in (error.api_message or "")
    verdict: Verdict
    if error.error_code in _SPEND_LIMITS or error.status_code in (401, 402, 403) or limited:
        verdict = "halt"
    elif error.status_code in (408, 429, 503, 529):
        verdict = "retry"
    else:
        verdict = "unknown" if error.status_code >= 500 or error.status_code == 200 else "reject"
    problem = key.hidden(f"{error.status_code} {error.api_message or error.type or ''}".strip())
    headers = error.response.headers
    pause = seconds(headers.get("retry-after"))
    return Reply(
        verdict,
        request_id=error.request_id,
        problem=problem,
        retry_after_s=pause,
        overloaded=verdict == "retry" and overloaded(error.status_code, pause),
        limits=anthropic_limits(headers),
    )
