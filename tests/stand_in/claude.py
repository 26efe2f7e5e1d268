"""Claude's Messages: POST /v1/messages."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, Final

from . import schema, shapes
from .answers import Oracle, answer, as_oracle
from .api import Answer, Route, Work, bearer
from .cache import Block, Cache, Split, count
from .faults import Fault, Problem, bad_request
from .limits import Limits
from .prices import MODELS, price_usd
from .wire import Call

_LIMITS: Final = {
    "requests": 4_000, "tokens": 4_000_000, "input-tokens": 3_200_000, "output-tokens": 800_000,
}  # fmt: skip
_STOPS: Final = {
    "": "end_turn", "refusal_late": "refusal", "context_window": "model_context_window_exceeded",
}  # fmt: skip
_MOST_BREAKPOINTS = 4


class Claude:
    id_header = "request-id"

    def __init__(self, oracle: Oracle | Mapping[str, Any] | None = None) -> None:
        self.oracle = as_oracle(oracle)
        self.cache = Cache()
        self.geo = "global"  # where the workspace is pinned to; the US costs a tenth more
        self.routes = [Route("POST", "/v1/messages", "messages", self._create)]

    def authorize(self, call: Call) -> None:
        if not bearer(call):
            raise Problem(401, "authentication_error", "invalid bearer token")
        if "anthropic-version" not in call.headers:
            raise bad_request("anthropic-version: header is required")

    def headers(self) -> dict[str, str]:
        return Limits(_LIMITS).headers(self.id_header)

    def error(self, problem: Problem, request_id: str) -> dict[str, Any]:
        error: dict[str, Any] = {"type": problem.type, "message": problem.message}
        if problem.error_code:
            error["details"] = {"error_code": problem.error_code}
        return {"type": "error", "error": error, "request_id": request_id}

    def _create(self, call: Call, _: str) -> Work:
        return self.take(call.body)

    def take(self, raw: bytes | str) -> Work:
        """Of a request of its own, or of a part of a batch."""
        body = shapes.read(raw, shapes.MESSAGES)
        blocks = _check(body)
        split = self.cache.look(body["model"], blocks)
        return lambda fault: self._finish(body, split, fault)

    def _finish(self, body: dict[str, Any], split: Split, fault: Fault | None) -> Answer:
        off, limit = fault.answer if fault else "", body["max_tokens"]
        asked = "\n".join(text for text, _ in _parts(body["messages"][-1]["content"]))
        wanted = body.get("output_config", {}).get("format", {}).get("schema")
        text, cut = answer(self.oracle, asked, wanted, limit, off)
        output = limit if cut == "max_tokens" else count(text)
        if off == "refusal":
            text, output, cut = "", 1, off
        usage = _usage(split, output) | {"inference_geo": self.geo}
        self.cache.keep(split)
        message = _message(body["model"], text, _STOPS.get(cut, cut), usage)
        if off == "no_usage":
            del message["usage"]
        usd = price_usd(body["model"], usage) * (off != "refusal")
        return Answer(message, body["model"], usage, usd)


def _check(body: dict[str, Any]) -> list[Block]:
    """The prompt in the order in which the cache sees it: schema, system, messages."""
    if body["model"] not in MODELS:
        raise Problem(404, "not_found_error", f"model: {body['model']}")
    if {body["messages"][place]["role"] for place in (0, -1)} != {"user"}:
        raise bad_request("messages: the first and the last one must be of the user")
    blocks: list[Block] = []
    if wanted := body.get("output_config", {}).get("format"):
        schema.check(wanted["schema"])
        blocks.append((json.dumps(wanted, sort_keys=True), None))
    for content in (body.get("system", []), *(m["content"] for m in body["messages"])):
        blocks += _parts(content)
    ttls = [ttl for _, ttl in blocks if ttl]
    if len(ttls) > _MOST_BREAKPOINTS or ttls != sorted(ttls):  # "1h" sorts before "5m"
        raise bad_request("cache_control: a maximum of 4, and a ttl='1h' one not after a '5m' one")
    return blocks


def _parts(content: Any) -> list[Block]:
    if isinstance(content, str):
        return [(content, None)]
    marks = [block.get("cache_control") for block in content]
    return [
        (block["text"], mark.get("ttl", "5m") if mark else None)
        for block, mark in zip(content, marks, strict=True)
    ]


def _usage(split: Split, output: int) -> dict[str, Any]:
    return {
        "input_tokens": split.fresh,
        "cache_creation_input_tokens": sum(split.written.values()),
        "cache_read_input_tokens": split.read,
        "cache_creation": {
            f"ephemeral_{ttl}_input_tokens": tokens for ttl, tokens in split.written.items()
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
