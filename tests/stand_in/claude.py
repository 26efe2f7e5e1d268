"""The Claude API: POST /v1/messages and POST /v1/messages/count_tokens.

Answers are a function of the request, the oracle and the fault, and of nothing else, so that two
runs can be compared byte by byte (ids aside).
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import schema, shape, tokens
from .api import Answer, Route, Work
from .cache import Cache, Split
from .faults import Fault
from .problems import Problem, bad_request
from .wire import Call

# The user's text → the value of the answer; None leaves it to the stand-in.
Oracle = Callable[[str], Any]
_LIMITS: Final[dict[str, int]] = {
    "requests": 4_000,
    "tokens": 4_000_000,
    "input-tokens": 3_200_000,
    "output-tokens": 800_000,
}


class Claude:
    id_header = "request-id"

    def __init__(self, oracle: Oracle | Mapping[str, Any] | None = None) -> None:
        self.oracle = as_oracle(oracle)
        self.cache = Cache()
        self.context_tokens = 1_000_000
        # count_tokens is an estimate: below 1, what it says is less than what is then charged.
        self.count_factor = 1.0
        self.geo = "global"  # where the workspace is pinned to; the US costs a tenth more

    def route(self, method: str, path: str) -> Route | None:
        endpoints = {
            "/v1/messages": ("messages", self._create),
            "/v1/messages/count_tokens": ("count_tokens", self._count),
        }
        if method != "POST" or path not in endpoints:
            return None
        endpoint, accept = endpoints[path]
        return Route(endpoint, accept, _rate_limits())

    def error(self, problem: Problem, request_id: str) -> dict[str, Any]:
        error: dict[str, Any] = {"type": problem.type, "message": problem.message}
        if problem.error_code:
            error["details"] = {"error_code": problem.error_code}
        return {"type": "error", "error": error, "request_id": request_id}

    def _count(self, call: Call) -> Work:
        body = _read(call)
        shape.check(body, create=False)
        total = sum(block.tokens for block in tokens.blocks(body))
        answer = Answer({"input_tokens": math.ceil(total * self.count_factor)})
        return Work(lambda _: answer)

    def _create(self, call: Call) -> Work:
        return self.take(_read(call))

    def take(self, body: Any) -> Work:
        """Of a request of its own, or of a part of a batch."""
        shape.check(body, create=True)
        blocks = tokens.blocks(body)
        total = sum(block.tokens for block in blocks)
        if total > self.context_tokens:
            raise bad_request(f"prompt is too long: {total} tokens > {self.context_tokens} maximum")
        split = self.cache.look(body["model"], blocks)
        return Work(lambda fault: self._finish(body, split, fault))

    def _finish(self, body: dict[str, Any], split: Split, fault: Fault | None) -> Answer:
        off = fault.answer if fault else ""
        text, stop = self._text(body, off), "end_turn"
        met = [mark for mark in body.get("stop_sequences") or [] if mark in text]
        if mark := min(met, key=text.index, default=""):
            text, stop = text[: text.index(mark)], "stop_sequence"
        text, output, stop = _end(text, stop, body["max_tokens"], off)
        usage = _usage(split, output) | {"inference_geo": self.geo}
        self.cache.keep(split)
        message = _message(body["model"], text, stop, usage)
        if stop == "stop_sequence":
            message["stop_sequence"] = mark
        if off == "no_usage":
            del message["usage"]
        return Answer(message, body["model"], usage, billed=off != "refusal")

    def _text(self, body: dict[str, Any], off: str) -> str:
        last = "\n".join(part["text"] for part in tokens.parts(body["messages"][-1]["content"]))
        value = self.oracle(last)
        wanted = body.get("output_config", {}).get("format")
        if not wanted:
            if value is None:
                return f"An answer to {hashlib.sha256(last.encode()).hexdigest()[:8]}."
            return value if isinstance(value, str) else json.dumps(value)
        shaped = schema.fill(wanted["schema"], schema.NOTHING if value is None else value)
        if off == "off_enum":
            shaped = schema.alter(wanted["schema"], shaped, lambda label: f"{label}_or_so")
        elif off == "other_case":
            shaped = schema.alter(wanted["schema"], shaped, _other_case)
        return json.dumps(shaped)


def as_oracle(given: Oracle | Mapping[str, Any] | None) -> Oracle:
    """A mapping is asked for the whole text first, then for its longest key inside the text."""
    if given is None:
        return lambda _: None
    if not isinstance(given, Mapping):
        return given
    book, keys = given, sorted(given, key=len, reverse=True)

    def look(text: str) -> Any:
        return book[text] if text in book else next((book[k] for k in keys if k in text), None)

    return look


def authorize(call: Call) -> None:
    scheme, _, key = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip() or key == "bad-key":
        raise Problem(401, "authentication_error", "invalid bearer token")
    if "anthropic-version" not in call.headers:
        raise bad_request("anthropic-version: header is required")


def _read(call: Call) -> Any:
    authorize(call)
    try:
        return json.loads(call.body)
    except ValueError as error:
        raise bad_request("The request body is not valid JSON") from error


def _end(text: str, stop: str, limit: int, off: str) -> tuple[str, int, str]:
    """The text as far as it goes, what it costs in tokens, and why it ends."""
    if off == "refusal":
        return "", 1, "refusal"
    if off == "max_tokens" or tokens.count(text) > limit:
        # Half at most, so that JSON is never whole by chance. Charged to the limit.
        return text[: min(len(text) // 2, 4 * limit)], limit, "max_tokens"
    if off in ("refusal_late", "pause_turn", "model_context_window_exceeded"):
        half = text[: len(text) // 2]
        return half, tokens.count(half), off.removesuffix("_late")
    return text, tokens.count(text), stop


def _usage(split: Split, output: int) -> dict[str, Any]:
    return {
        "input_tokens": split.fresh,
        "cache_creation_input_tokens": sum(split.written.values()),
        "cache_read_input_tokens": split.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": split.written["5m"],
            "ephemeral_1h_input_tokens": split.written["1h"],
        },
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": None,
        "service_tier": "standard",
        "speed": "standard",
    }


def _message(model: str, text: str, stop: str, usage: Mapping[str, Any]) -> dict[str, Any]:
    refused = {"type": "refusal", "category": "general_harms", "explanation": "Not this one."}
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": refused if stop == "refusal" else None,
        "container": None,
        "diagnostics": None,
        "usage": usage,
    }


def _other_case(label: str) -> str:
    return label.upper() if label != label.upper() else label.lower()


def _rate_limits() -> dict[str, str]:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    headers: dict[str, str] = {}
    for name, limit in _LIMITS.items():
        prefix = f"anthropic-ratelimit-{name}"
        headers |= {f"{prefix}-limit": str(limit), f"{prefix}-remaining": str(limit - 1)}
        headers[f"{prefix}-reset"] = reset
    return headers
