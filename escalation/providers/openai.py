"""GPT by OpenAI's own SDK, and by the same: Gemini, any other API that speaks OpenAI's, and a
larger open-weight model on a server of one's own.

`OpenAI` builds requests and reads replies; `OpenAIWire` sends them. The SDK's own retries are off:
it would send again after a dropped connection, and be billed again, without our books knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from escalation.providers.openai_schema import strict
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
from escalation.providers.rate_headers import openai_limits
from runner.errors import UsageError
from runner.formats.foreign_json import Unreadable, clipped, one_line
from runner.job.escalation import Escalation, endpoint_of
from runner.types import Completion, Constraint, Prompt, Usage

if TYPE_CHECKING:
    from openai import AsyncOpenAI

URL = "https://api.openai.com/v1"
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
        self._endpoint = endpoint_of(escalation.base_url)
        self.name: str = escalation.provider
        self.url: str = escalation.base_url or URL

    def request(self, prompt: Prompt) -> dict[str, Any]:
        ours, own = self._escalation, self._endpoint == "openai"
        # Models that think by default would spend ``max_tokens`` on it and have none left.
        usual = "low" if self._endpoint in ("openai", "gemini") else None
        # In the order in which the SDK sends them: what left is written down to the byte.
        body = {
            "model": ours.model,
            # Else a project's own settings may have it processed at a multiple of the price.
            "service_tier": "default" if own else None,
            "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "max_completion_tokens": ours.max_tokens if own else None,
            "max_tokens": None if own else ours.max_tokens,
            "reasoning_effort": ours.effort or usual,
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
            if self._endpoint == "openai":
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


def client(
    base_url: str | None, key: Key, timeout_s: float, concurrency: int, *, bounded: bool = False
) -> AsyncOpenAI:
    """The SDK's, without retries of its own; ``bounded``: no reply is read without end."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    from escalation.providers.bodies import http_settings

    made = AsyncOpenAI(
        api_key=key.value or "none",
        base_url=base_url or URL,
        max_retries=0,
        timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        http_client=DefaultAsyncHttpxClient(**http_settings(concurrency, bounded=bounded)),
    )
    if endpoint_of(base_url) != "openai":
        # The environment has them for OpenAI, and nobody else is to know.
        made.organization = made.project = None
    return made


class OpenAIWire:
    """Sends requests; ``timeout_s`` bounds each as a whole, a dripping body included."""

    def __init__(
        self, base_url: str | None, key_env: str | None, timeout_s: float, concurrency: int
    ) -> None:
        self._timeout = timeout_s
        self._key = Key(key_env, base_url)
        self._client = client(base_url, self._key, timeout_s, concurrency, bounded=True)

    async def send(self, request: Mapping[str, Any]) -> Reply:
        if self._key.problem:
            return Reply("halt", problem=self._key.problem)
        try:
            create = self._client.chat.completions.with_raw_response.create(**request)
            raw = await asyncio.wait_for(create, self._timeout)
            content = raw.http_response.content
        except Exception as error:
            return failed(error, self._key, self._timeout)
        return received(content, raw.request_id, openai_limits(raw.http_response.headers))

    async def aclose(self) -> None:
        await self._client.close()


def failed(error: Exception, key: Key, timeout_s: float) -> Reply:
    """What the SDK's error says of the money."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        headers = error.response.headers
        return refused(error.status_code, error.body, key, headers, error.request_id)
    if isinstance(error, APIConnectionError):
        return unconnected(error, key, timeout_s)
    return unanswered(timeout_s) if isinstance(error, TimeoutError) else unexpected(error, key)


def refused(
    status: int, body: object, key: Key, headers: Mapping[str, str], request_id: str | None
) -> Reply:
    """A request that was answered with an error instead."""
    said = _said(body)
    problem = key.line(str(status), said.get("message") or said.get("detail"))
    if status == 401:
        # The server's own words have the key in them, or what it begins and ends with.
        problem = f"401 the key in {key.name} is refused" if key.name else "401 a key is needed"
    elif 300 <= status < 400:
        problem = redirected(status, headers.get("location"), key)
    verdict, pause = _verdict(status, said), _pause(headers.get("retry-after"), said)
    return Reply(
        verdict,
        request_id=request_id and key.line(request_id),
        problem=problem,
        retry_after_s=pause,
        overloaded=verdict == "retry" and overloaded(status, pause),
        limits=openai_limits(headers),
    )


def _said(body: Any) -> Mapping[str, Any]:
    """The error's own object. Gemini puts it into a list, other servers give a text alone."""
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    return body if isinstance(body, Mapping) else {"message": one_line(body)}


def _verdict(status: int, said: Mapping[str, Any]) -> Verdict:
    codes = {one_line(said.get("code")), one_line(said.get("type"))}
    if status in (401, 402, 403, 404) or codes & _ALL_REQUESTS:
        return "halt"
    if 300 <= status < 400:
        return "halt"  # it would be so for every request, and nothing was done
    if status == 400 and (
        said.get("param") == "response_format" or _BAD_KEY in one_line(said.get("message"))
    ):
        return "halt"
    if status in (408, 429, 503, 529):
        return "retry"
    return "unknown" if status >= 500 or status < 300 else "reject"


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
