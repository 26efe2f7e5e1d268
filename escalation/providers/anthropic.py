"""Claude, through Anthropic's SDK.

`Anthropic` builds requests and reads replies; `AnthropicWire` sends them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from escalation.providers.protocol import (
    LABEL,
    Bill,
    Key,
    Reply,
    Verdict,
    part_of,
    seconds,
    served,
    text_of,
    tokens,
)
from escalation.providers.rate_headers import Limits, anthropic_limits
from escalation.providers.sdk_calls import Sdk, SdkWire, completed, verdict_of
from runner.errors import UsageError
from runner.formats.foreign_json import Unreadable, clipped, one_line
from runner.job import Escalation
from runner.types import Completion, Constraint, Prompt, Usage

if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncAnthropic

_SPEND_LIMITS = {
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
}


class Anthropic:
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


class AnthropicSdk(Sdk):
    package = "anthropic"

    def client(self, key: Key, **settings: Any) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic

        return AsyncAnthropic(api_key=key.value, open_telemetry=False, **settings)

    def asks(self, client: AsyncAnthropic) -> Callable[..., Awaitable[Any]]:
        return client.messages.with_raw_response.create

    def refused(self, error: APIStatusError, key: Key) -> Reply:
        status, headers = error.status_code, error.response.headers
        reply = Reply(
            _verdict(error),
            request_id=error.request_id,
            problem=key.line(str(status), error.api_message or error.type),
            retry_after_s=seconds(headers.get("retry-after")),
            limits=self.limits(headers),
        )
        return completed(reply, status, headers, key)

    def limits(self, headers: Mapping[str, str]) -> Limits:
        return anthropic_limits(headers)


class AnthropicWire(SdkWire):
    sdk = AnthropicSdk()


def _verdict(error: APIStatusError) -> Verdict:
    limited = "usage limits" in one_line(error.api_message)
    spent = error.error_code in _SPEND_LIMITS or limited
    return "halt" if spent else verdict_of(error.status_code)
