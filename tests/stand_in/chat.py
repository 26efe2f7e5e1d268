"""OpenAI's chat API, POST /v1/chat/completions, and Gemini's way of speaking it.

Prompts are cached unasked: the system messages are the prefix. Endpoint of faults: ``chat``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from . import schema, tokens
from .api import Answer, Route, Work
from .cache import Cache, Split
from .claude import Oracle, as_oracle
from .faults import Fault
from .problems import Problem, bad_request
from .wire import Call

# USD per million tokens: input, output, cache write, cache read; then the same of long prompts.
_ROWS: Final[dict[str, tuple[str, int, str]]] = {
    "gpt-6.2-sol": ("2 10 2.5 2", 272_000, "4 15 5 4"),
    "gpt-6.2-astra": ("8 40 10 8", 272_000, "16 60 20 16"),
    "gpt-6.1-sol": ("2 10 2.5 0.1", 272_000, "4 15 5 0.2"),
    "gpt-6.1-terra": ("1 5 1.25 0.05", 272_000, "2 7.5 2.5 0.1"),
    "gpt-6-astra": ("10 50 12.5 1", 272_000, "20 75 25 2"),
    "gpt-6-sol": ("2 10 2.5 0.2", 272_000, "4 15 5 0.4"),
    "gpt-6-luna": ("0.1 0.5 0.125 0.01", 272_000, "0.2 0.75 0.25 0.02"),
    "gemini-3.8-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.7-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.6-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.5-flash": ("1.5 9 0 0.15", 1 << 62, ""),
    "gemini-3.5-flash-lite": ("0.3 2.5 0 0.03", 1 << 62, ""),
    "gemini-3.1-flash-lite": ("0.25 1.5 0 0.025", 1 << 62, ""),
    "gemini-3.1-pro-preview": ("2 12 0 0.2", 200_000, "4 18 0 0.4"),
}
CHAT_MODELS: Final[frozenset[str]] = frozenset(_ROWS)
_TAKEN: Final = frozenset(
    {
        "model", "messages", "max_completion_tokens", "max_tokens", "reasoning_effort",
        "response_format", "service_tier", "store",
    }
)  # fmt: skip
_KEYWORDS: Final = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum",
        "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maximum", "maxItems", "minimum",
        "minItems", "multipleOf", "pattern", "properties", "required", "type",
    }
)  # fmt: skip
_THOUGHT = 11  # tokens, where the request names an effort
# The faults that a refused request names in Anthropic's words, in OpenAI's: type, code, message.
_WORDS: Final[dict[str, tuple[str, str | None, str]]] = {
    "enforced_spend_limit_reached": (
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "authentication_error": (
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key provided: key-that*********************down. You can find your API key "
        "at https://platform.openai.com/account/api-keys.",
    ),
    "rate_limit_error": ("requests", "rate_limit_exceeded", "Rate limit reached for this model."),
}


def chat_price_usd(model: str, usage: Mapping[str, Any]) -> Decimal:
    """The exact price of one answer, from the `usage` object as it goes over the wire."""
    prompt, details = int(usage["prompt_tokens"]), usage["prompt_tokens_details"]
    written, read = int(details.get("cache_write_tokens") or 0), int(details["cached_tokens"])
    row, above, long = _ROWS[model]
    counts = (prompt - written - read, int(usage["total_tokens"]) - prompt, written, read)
    prices = (long if prompt > above else row).split()
    return sum((n * Decimal(p) for n, p in zip(counts, prices, strict=True)), Decimal(0)) / 10**6


class Chat:
    id_header = "x-request-id"
    path = "/v1/chat/completions"

    def __init__(self, oracle: Oracle | Mapping[str, Any] | None = None) -> None:
        self.oracle = as_oracle(oracle)
        self.cache = Cache()
        # OpenAI's own API: its models take `max_completion_tokens` alone. Others take either.
        self.own = False
        self.strays = 0  # requests with headers that are OpenAI's alone

    def route(self, method: str, path: str) -> Route | None:
        return Route("chat", self._create) if (method, path) == ("POST", self.path) else None

    def error(self, problem: Problem, request_id: str) -> Any:
        usual = (problem.type, problem.error_code, problem.message)
        kind, code, message = _WORDS.get(problem.error_code or problem.type, usual)
        param = "response_format" if "response_format" in message else None
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def _create(self, call: Call) -> Work:
        self.authorize(call)
        try:
            body = json.loads(call.body)
        except ValueError as error:
            raise bad_request("We could not parse the JSON body of your request.") from error
        return self.take(body)

    def authorize(self, call: Call) -> None:
        scheme, _, key = call.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip() or key == "bad-key":
            raise self._bad_key()
        self.strays += any(
            name in call.headers for name in ("openai-organization", "openai-project")
        )

    def take(self, body: Any) -> Work:
        """Of a request of its own, or of a part of a batch."""
        self._check(body)
        split = self.cache.look(body["model"], _blocks(body))
        return Work(lambda fault: self._finish(body, split, fault))

    def _bad_key(self) -> Problem:
        return Problem(401, "authentication_error", "")

    def _check(self, body: dict[str, Any]) -> None:
        if extra := sorted(set(body) - _TAKEN):
            raise _unfit("unknown_parameter", f"Unknown parameter: '{extra[0]}'.")
        if body["model"] not in _ROWS:
            raise Problem(
                404, "invalid_request_error", f"The model `{body['model']}` does not exist",
                error_code="model_not_found",
            )  # fmt: skip
        limits = {"max_tokens", "max_completion_tokens"} & set(body)
        if len(limits) != 1 or (self.own and limits == {"max_tokens"}):
            raise _unfit("unsupported_parameter", "Use 'max_completion_tokens' instead.")
        if not body["messages"] or any(set(m) != {"role", "content"} for m in body["messages"]):
            raise bad_request("Invalid type for 'messages'.")
        if body.get("response_format"):
            wanted = body["response_format"]["json_schema"]
            if set(wanted) != {"name", "schema", "strict"}:
                raise bad_request("Missing required parameter: response_format.json_schema")
            if wanted["strict"]:
                _check_strict(wanted["schema"], top=True)

    def _finish(self, body: dict[str, Any], split: Split, fault: Fault | None) -> Answer:
        off = fault.answer if fault else ""
        limit = body["max_tokens" if "max_tokens" in body else "max_completion_tokens"]
        thought = _THOUGHT if body.get("reasoning_effort") else 0
        text, reason = self._text(body, off), "stop"
        output = tokens.count(text) + thought
        if off == "max_tokens" or output > limit:
            text, output, reason = text[: min(len(text) // 2, 4 * limit)], limit, "length"
        elif off in ("refusal_late", "pause_turn", "model_context_window_exceeded"):
            text = text[: len(text) // 2]
            output = tokens.count(text) + thought
            reason = "content_filter" if off == "refusal_late" else off
        usage = self._usage(split, output, min(thought, output))
        self.cache.keep(split)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if off == "refusal":
            message |= {"content": None, "refusal": "I'm sorry, I can't assist with that."}
        answer = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
            ],
            "usage": usage,
            "service_tier": "default",
            "system_fingerprint": None,
        }
        if off == "no_usage":
            del answer["usage"]
        return Answer(answer, body["model"], usage, usd=chat_price_usd(body["model"], usage))

    def _text(self, body: dict[str, Any], off: str) -> str:
        last = str(body["messages"][-1]["content"])
        value = self.oracle(last)
        if not body.get("response_format"):
            if value is None:
                return f"An answer to {hashlib.sha256(last.encode()).hexdigest()[:8]}."
            return value if isinstance(value, str) else json.dumps(value)
        wanted = body["response_format"]["json_schema"]["schema"]
        shaped = schema.fill(wanted, schema.NOTHING if value is None else value)
        if off == "off_enum":
            shaped = schema.alter(wanted, shaped, lambda label: f"{label}_or_so")
        elif off == "other_case":
            shaped = schema.alter(wanted, shaped, str.upper)
        return json.dumps(shaped)

    def _usage(self, split: Split, output: int, thought: int) -> dict[str, Any]:
        written = sum(split.written.values())
        prompt = split.fresh + split.read + written
        return {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": split.read, "cache_write_tokens": written},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }


class Gemini(Chat):
    """Errors in a list, a bad key with status 400, and thinking that only the total counts."""

    path = "/v1beta/openai/chat/completions"

    def error(self, problem: Problem, request_id: str) -> Any:
        status = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED"}.get(problem.status, "OTHER")
        error: dict[str, Any] = {"code": problem.status, "message": problem.message}
        if problem.status == 429:
            error["details"] = [{"@type": "google.rpc.Help"}, {"retryDelay": "0.05s"}]
        return [{"error": error | {"status": status}}]

    def _bad_key(self) -> Problem:
        return bad_request("API key not valid. Please pass a valid API key.")

    def _usage(self, split: Split, output: int, thought: int) -> dict[str, Any]:
        usage = super()._usage(split, output, thought)
        del usage["completion_tokens_details"], usage["prompt_tokens_details"]["cache_write_tokens"]
        return usage | {"completion_tokens": output - thought}


def _unfit(code: str, message: str) -> Problem:
    return Problem(400, "invalid_request_error", message, error_code=code)


def _blocks(body: Mapping[str, Any]) -> list[tokens.Block]:
    """The prompt in the order in which the cache sees it: schema, then the messages."""
    found = []
    if wanted := body.get("response_format"):
        text = json.dumps(wanted, sort_keys=True)
        found.append(tokens.Block(text, tokens.count(text)))
    for message in body["messages"]:
        text, ttl = str(message["content"]), "5m" if message["role"] == "system" else None
        found.append(tokens.Block(text, tokens.count(text), ttl))
    return found


def _check_strict(wanted: Any, *, top: bool = False) -> None:
    """Raises the 400 of a schema that strict mode would not take."""
    if not isinstance(wanted, dict) or (top and wanted.get("type") != "object"):
        raise bad_request("Invalid schema for response_format 'answer': not an object")
    if "$ref" in wanted:
        if set(wanted) != {"$ref"}:
            raise bad_request("Invalid schema for response_format 'answer': $ref cannot have keys")
        return
    if extra := sorted(set(wanted) - _KEYWORDS):
        raise bad_request(f"Invalid schema for response_format 'answer': '{extra[0]}'")
    if "type" not in wanted and "anyOf" not in wanted:
        raise bad_request("Invalid schema for response_format 'answer': must have a 'type' key")
    names = wanted.get("properties", {})
    if "object" in str(wanted.get("type")) and (
        wanted.get("additionalProperties") is not False or set(wanted["required"]) != set(names)
    ):
        raise bad_request("Invalid schema for response_format 'answer': 'required' lacks keys")
    inner = [*names.values(), *wanted.get("anyOf", []), *wanted.get("$defs", {}).values()]
    for child in [*inner, *([wanted["items"]] if "items" in wanted else [])]:
        _check_strict(child)
