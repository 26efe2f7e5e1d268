"""GPT, Gemini, other OpenAI-compatible APIs and self-hosted open-weight models, through
OpenAI's SDK.

`OpenAI` builds requests and reads replies; `OpenAIWire` sends them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from escalation.providers.openai_schema import strict
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
from escalation.providers.rate_headers import Limits, openai_limits
from escalation.providers.sdk_calls import Sdk, SdkWire, completed, verdict_of
from runner.errors import UsageError
from runner.formats.foreign_json import Unreadable, clipped, one_line
from runner.job import Escalation
from runner.job.providers import endpoint_at
from runner.types import Completion, Constraint, Prompt, Usage

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

# Not about this request but about every one: the account, or how the job has them built.
_ALL_REQUESTS = {
    "account_deactivated", "billing_hard_limit_reached", "billing_not_active", "insufficient_quota",
    "invalid_json_schema", "model_not_found", "unknown_parameter", "unsupported_parameter",
    "unsupported_value",
}  # fmt: skip
_BAD_KEY = "API key not valid"  # Gemini says so with status 400


class OpenAI:
    """One provider for three names: OpenAI itself, other APIs at ``base_url``, ``local``."""

    def __init__(self, escalation: Escalation) -> None:
        self._escalation = escalation
        self._format: tuple[Constraint, dict[str, Any] | None] | None = None
        self._own = _is_openais(escalation.address)
        # Models that think by default would spend ``max_tokens`` on it and have none left.
        thinks = endpoint_at(escalation.address) in escalation.entry.endpoints
        self._effort = escalation.effort or ("low" if thinks else None)

    def request(self, prompt: Prompt) -> dict[str, Any]:
        ours, own = self._escalation, self._own
        # In the order in which the SDK sends them: what left is written down to the byte.
        body = {
            "model": ours.model,
            # Else a project's own settings may have it processed at a multiple of the price.
            "service_tier": "default" if own else None,
            "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "max_completion_tokens": ours.max_tokens if own else None,
            "max_tokens": None if own else ours.max_tokens,
            "reasoning_effort": self._effort,
            "response_format": self._answer_format(prompt.constraint),
            "store": False if own else None,
        }
        return {key: value for key, value in body.items() if value is not None}

    def _answer_format(self, constraint: Constraint) -> dict[str, Any] | None:
        """The constraint as the API takes it; built once for a job."""
        if self._format is None or self._format[0] is not constraint:
            self._format = (constraint, self._format_of(constraint))
        return self._format[1]

    def _format_of(self, constraint: Constraint) -> dict[str, Any] | None:
        schema: Mapping[str, Any] | None = constraint.schema
        if constraint.labels:
            # The answer must be an object; `replies.bare` takes the label out again.
            labels = {"enum": list(constraint.labels)}
            schema = {"type": "object", "properties": {LABEL: labels}, "required": [LABEL]}
        if schema is None:
            return None
        answer: dict[str, Any] = {"name": "answer", "strict": True}
        try:
            answer["schema"] = strict(schema)
        except ValueError as error:
            if self._own:
                raise UsageError(
                    f"`answer.schema` is not one that the API takes: {error}"
                ) from None
            # Servers such as vLLM know more of JSON Schema than strict mode does.
            answer |= {"schema": dict(schema), "strict": False}
        return {"type": "json_schema", "json_schema": answer}

    def completion(self, body: Mapping[str, Any]) -> Completion:
        try:
            choice = _only_choice(body.get("choices"))
            message = part_of(choice, "message")
            refusal, text = text_of(message, "refusal"), text_of(message, "content")
            if refusal is None and text is None:
                raise Unreadable("its message has no content")
            finished = text_of(choice, "finish_reason") or "stop"
            return Completion(
                text=refusal or text or "",
                model=one_line(text_of(body, "model") or self._escalation.model, 200),
                finish_reason="refusal" if refusal else finished,
            )
        except Unreadable as error:
            raise ValueError(f"the reply is no chat completion: {error}") from None

    def bill(self, body: Mapping[str, Any]) -> Bill:
        """Cached tokens are inside the prompt's; thinking is inside the completion's, but for
        Gemini's, where the total alone has it."""
        usage = part_of(body, "usage")
        details = part_of(usage, "prompt_tokens_details")
        prompt = tokens(usage, "prompt_tokens", needed=True)
        output = tokens(usage, "completion_tokens", needed=True)
        read, written = tokens(details, "cached_tokens"), tokens(details, "cache_write_tokens")
        return Bill(
            Usage(
                input_tokens=max(0, prompt - read - written),
                output_tokens=max(output, tokens(usage, "total_tokens") - prompt),
                cache_write_5m=written,
                cache_read=read,
            ),
            served(body, "service_tier"),
        )


def _only_choice(choices: object) -> Mapping[str, Any]:
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Unreadable(f"choices: {clipped(choices)} is not the one that was asked for")
    return choices[0]


def _is_openais(address: str) -> bool:
    at = endpoint_at(address)
    return at is not None and at.name == "openai"


class OpenAISdk(Sdk):
    package = "openai"

    def client(self, key: Key, **settings: Any) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        made = AsyncOpenAI(api_key=key.value or "none", **settings)
        if not _is_openais(settings["base_url"]):
            # The environment has them for OpenAI, and nobody else is to know.
            made.organization = made.project = None
        return made

    def asks(self, client: AsyncOpenAI) -> Callable[..., Awaitable[Any]]:
        return client.chat.completions.with_raw_response.create

    def refused(self, error: APIStatusError, key: Key) -> Reply:
        headers = error.response.headers
        reply = refused(error.status_code, error.body, key, headers, error.request_id)
        return replace(reply, limits=self.limits(headers))

    def limits(self, headers: Mapping[str, str]) -> Limits:
        return openai_limits(headers)


class OpenAIWire(SdkWire):
    sdk = OpenAISdk()


def refused(
    status: int, body: object, key: Key, headers: Mapping[str, str], request_id: str | None
) -> Reply:
    """The reply to a request that was answered with an error."""
    said = _said(body)
    problem = key.line(str(status), said.get("message") or said.get("detail"))
    if status == 401:
        # The server's own words have the key in them, or what it begins and ends with.
        problem = f"401 the key in {key.name} is refused" if key.name else "401 a key is needed"
    pause = _pause(headers.get("retry-after"), said)
    reply = Reply(_verdict(status, said), None, request_id, problem, retry_after_s=pause)
    return completed(reply, status, headers, key)


def _said(body: Any) -> Mapping[str, Any]:
    """The error's own object. Gemini puts it into a list, other servers give a text alone."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    return body if isinstance(body, Mapping) else {"message": one_line(body)}


def _verdict(status: int, said: Mapping[str, Any]) -> Verdict:
    codes = {one_line(said.get("code")), one_line(said.get("type"))}
    if status == 404 or codes & _ALL_REQUESTS:
        return "halt"
    if status == 400 and (
        said.get("param") == "response_format" or _BAD_KEY in one_line(said.get("message"))
    ):
        return "halt"
    return verdict_of(status)


def _pause(header: str | None, said: Mapping[str, Any]) -> float | None:
    """From the header or, as Gemini says it, the error's details: ``retryDelay: 34s``."""
    details = said.get("details")
    delays = [
        one_line(each.get("retryDelay")).removesuffix("s")
        for each in (details if isinstance(details, list) else ())
        if isinstance(each, Mapping)
    ]
    found = [seconds(text) for text in (header, *delays)]
    return next((seconds for seconds in found if seconds is not None), None)
