"""OpenAI's chat API, POST /v1/chat/completions, and Gemini's way of speaking it.

Prompts are cached unasked: the system messages are the prefix. Endpoint of faults: ``chat``.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from . import schema, shapes
from .answers import Oracle, answer, as_oracle
from .api import Answer, Route, Work, bearer
from .cache import Block, Cache, Split, count
from .faults import Fault, Problem, bad_request
from .prices import CHAT_MODELS, chat_price_usd
from .wire import Call

_THOUGHT = 11  # tokens, where the request names an effort
_REASONS: Final = {
    "": "stop", "max_tokens": "length", "refusal_late": "content_filter",
    "context_window": "model_context_window_exceeded",
}  # fmt: skip
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


class Chat:
    id_header = "x-request-id"
    path = "/v1/chat/completions"

    def __init__(self, oracle: Oracle | Mapping[str, Any] | None = None) -> None:
        self.oracle = as_oracle(oracle)
        self.cache = Cache()
        self.own = False  # OpenAI's own API, not one that speaks like it
        self.strays = 0  # requests with headers that are OpenAI's alone
        self.routes = [Route("POST", self.path, "chat", self._create)]

    def authorize(self, call: Call) -> None:
        if not bearer(call):
            raise self._bad_key()
        self.strays += any(
            name in call.headers for name in ("openai-organization", "openai-project")
        )

    def headers(self) -> dict[str, str]:
        return {}

    def error(self, problem: Problem, request_id: str) -> Any:
        usual = (problem.type, problem.error_code, problem.message)
        kind, code, message = _WORDS.get(problem.error_code or problem.type, usual)
        param = "response_format" if "response_format" in message else None
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def _create(self, call: Call, _: str) -> Work:
        return self.take(call.body)

    def take(self, raw: bytes | str) -> Work:
        """Of a request of its own, or of a part of a batch."""
        body = shapes.read(raw, shapes.CHAT_OWN if self.own else shapes.CHAT)
        if body["model"] not in CHAT_MODELS:
            raise Problem(
                404, "invalid_request_error", f"The model `{body['model']}` does not exist",
                error_code="model_not_found",
            )  # fmt: skip
        wanted = _wanted(body)
        if wanted and body["response_format"]["json_schema"]["strict"]:
            schema.check_strict(wanted)
        split = self.cache.look(body["model"], _blocks(body))
        return lambda fault: self._finish(body, split, fault)

    def _bad_key(self) -> Problem:
        return Problem(401, "authentication_error", "")

    def _finish(self, body: dict[str, Any], split: Split, fault: Fault | None) -> Answer:
        off = fault.answer if fault else ""
        limit = body["max_tokens" if "max_tokens" in body else "max_completion_tokens"]
        thought = min(_THOUGHT if body.get("reasoning_effort") else 0, limit)
        asked = body["messages"][-1]["content"]
        text, cut = answer(self.oracle, asked, _wanted(body), limit - thought, off)
        output = limit if cut == "max_tokens" else count(text) + thought
        usage = self._usage(split, output, thought)
        self.cache.keep(split)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if off == "refusal":
            message |= {"content": None, "refusal": "I'm sorry, I can't assist with that."}
        reason = _REASONS.get(cut, cut)
        reply = {
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
            del reply["usage"]
        return Answer(reply, body["model"], usage, chat_price_usd(body["model"], usage))

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


def _wanted(body: Mapping[str, Any]) -> dict[str, Any] | None:
    wanted: dict[str, Any] | None = body.get("response_format", {})
    return wanted["json_schema"]["schema"] if wanted else None


def _blocks(body: Mapping[str, Any]) -> list[Block]:
    """The prompt in the order in which the cache sees it: schema, then the messages."""
    wanted = body.get("response_format")
    found: list[Block] = [(json.dumps(wanted, sort_keys=True), None)] if wanted else []
    for message in body["messages"]:
        found.append((message["content"], "5m" if message["role"] == "system" else None))
    return found
