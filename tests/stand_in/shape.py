"""Which Messages requests the API takes. What it takes but this stand-in does not simulate is a
400 as well, and says so: a silent yes would let a test believe something that was never tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from . import schema, tokens
from .bill import MODELS
from .problems import Problem, bad_request

_COUNTED: Final = frozenset(
    {"model", "messages", "system", "output_config", "thinking", "cache_control"}
)
_CREATED: Final = _COUNTED | frozenset(
    {"max_tokens", "metadata", "stop_sequences", "service_tier", "inference_geo", "speed", "stream"}
)
_NOT_SIMULATED: Final = frozenset(
    {"tools", "tool_choice", "container", "diagnostics", "user_profile_id", "workspace_id"}
)
_CHOICES: Final[dict[str, tuple[Any, ...]]] = {
    "service_tier": ("auto", "standard_only"),
    "inference_geo": ("global", None),
    "speed": ("standard", None),
    "stream": (False, None),
}
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max", None)
_THINKING: Final = ("adaptive", "enabled", "disabled", "between_tools")
_MOST_BREAKPOINTS = 4


def check(body: Any, *, create: bool) -> None:
    """Raises the Problem that the API would answer with."""
    if not isinstance(body, dict):
        raise bad_request("The request body is not a JSON object")
    _check_names(body, create=create)
    if body["model"] not in MODELS:
        raise Problem(404, "not_found_error", f"model: {body['model']}")
    for name, allowed in _CHOICES.items():
        if body.get(name, allowed[0]) not in allowed:
            raise bad_request(f"{name}: {body[name]!r} is not allowed, or not simulated")
    limit = body.get("max_tokens", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise bad_request("max_tokens: Input should be a valid integer, at least 0")
    if "thinking" in body and _field(body, "thinking", "type") not in _THINKING:
        raise bad_request("thinking.type: Input tag is not one of the expected tags")
    if set(body.get("metadata") or {}) - {"user_id"}:
        raise bad_request("metadata: Extra inputs are not permitted")
    _check_output(body.get("output_config", {}))
    _check_text(body.get("system", []), "system")
    _check_messages(body["messages"])
    _check_breakpoints(body)


def _check_names(body: Mapping[str, Any], *, create: bool) -> None:
    if extra := sorted(set(body) & _NOT_SIMULATED):
        raise bad_request(f"{extra[0]}: not simulated by this stand-in")
    if extra := sorted(set(body) - (_CREATED if create else _COUNTED)):
        raise bad_request(f"{extra[0]}: Extra inputs are not permitted")
    for name in ("model", "messages", *(["max_tokens"] if create else [])):
        if name not in body:
            raise bad_request(f"{name}: Field required")


def _check_output(output: Any) -> None:
    if not isinstance(output, dict) or set(output) - {"effort", "format"}:
        raise bad_request("output_config: Extra inputs are not permitted")
    if output.get("effort") not in _EFFORTS:
        raise bad_request("output_config.effort: Input should be low, medium, high, xhigh or max")
    if (wanted := output.get("format")) is not None:
        if _field(output, "format", "type") != "json_schema" or set(wanted) != {"type", "schema"}:
            raise bad_request("output_config.format: Input should be {type: json_schema, schema}")
        schema.check(wanted["schema"])


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages: at least one message is required")
    for n, message in enumerate(messages):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise bad_request(f"messages.{n}: Input should be exactly role and content")
        if message["role"] not in ("user", "assistant"):
            raise bad_request(f"messages.{n}.role: Input should be 'user' or 'assistant'")
        if message["content"] in ("", []):
            raise bad_request(f"messages.{n}: all messages must have non-empty content")
        _check_text(message["content"], f"messages.{n}.content")
    if messages[0]["role"] != "user":
        raise bad_request('messages: first message must use the "user" role')
    if messages[-1]["role"] != "user":
        raise bad_request("This model does not support assistant message prefill.")


def _check_text(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise bad_request(f"{where}: Input should be a valid string or list")
    for n, block in enumerate(content):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise bad_request(f"{where}.{n}: only text blocks are simulated by this stand-in")
        if extra := sorted(set(block) - {"type", "text", "cache_control"}):
            raise bad_request(f"{where}.{n}.{extra[0]}: Extra inputs are not permitted")
        if not isinstance(block.get("text"), str) or not block["text"]:
            raise bad_request(f"{where}.{n}: text content blocks must be non-empty")
        _check_mark(block.get("cache_control"), f"{where}.{n}")


def _check_mark(mark: Any, where: str) -> None:
    if mark is None:
        return
    sound = isinstance(mark, dict) and mark.get("type") == "ephemeral"
    if not sound or set(mark) - {"type", "ttl"} or mark.get("ttl", "5m") not in ("5m", "1h"):
        raise bad_request(f"{where}.cache_control: Input should be ephemeral, ttl 5m or 1h")


def _check_breakpoints(body: Mapping[str, Any]) -> None:
    _check_mark(body.get("cache_control"), "request")
    ttls = [block.ttl for block in tokens.blocks(body) if block.ttl]
    if len(ttls) > _MOST_BREAKPOINTS:
        raise bad_request(f"A maximum of 4 blocks with cache_control may be provided: {len(ttls)}")
    if ttls != sorted(ttls):  # "1h" sorts before "5m"
        raise bad_request("a ttl='1h' cache_control block must not come after a ttl='5m' one")


def _field(body: Mapping[str, Any], *names: str) -> Any:
    place: Any = body
    for name in names:
        place = place.get(name) if isinstance(place, dict) else None
    return place
