"""Which requests the APIs take. What they take but this stand-in does not simulate is a 400 as
well: a silent yes would let a test believe something that was never tried."""

from __future__ import annotations

import json
from typing import Any, Final

from jsonschema import Draft202012Validator

from .faults import bad_request


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    """Of these properties alone."""
    return {
        "type": "object", "required": required.split(), "properties": properties,
        "additionalProperties": False,
    }  # fmt: skip


def _list(items: Any, most: int = 100_000) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": items}


_TEXT: Final = {"type": "string"}
_SOME_TEXT: Final = {"type": "string", "minLength": 1}
_ANY_OBJECT: Final = {"type": "object"}
_COUNT: Final = {"type": "integer", "minimum": 1}
_BLOCK: Final = _object(
    "type text",
    type={"const": "text"},
    text=_SOME_TEXT,
    cache_control=_object("type", type={"const": "ephemeral"}, ttl={"enum": ["5m", "1h"]}),
)
_CONTENT: Final = {"anyOf": [_SOME_TEXT, _list(_BLOCK)]}
MESSAGES: Final = _object(
    "model messages max_tokens",
    model=_TEXT,
    max_tokens=_COUNT,
    messages=_list(_object("role content", role={"enum": ["user", "assistant"]}, content=_CONTENT)),
    system={"anyOf": [_TEXT, {"type": "array", "items": _BLOCK}]},
    output_config=_object(
        effort={"enum": ["low", "medium", "high", "xhigh", "max"]},
        format=_object("type schema", type={"const": "json_schema"}, schema=_ANY_OBJECT),
    ),
    thinking={"type": "object", "required": ["type"]},
    service_tier={"enum": ["auto", "standard_only"]},
)
MESSAGE_BATCH: Final = _object(
    "requests",
    requests=_list(
        _object(
            "custom_id params",
            custom_id={"type": "string", "pattern": r"^[a-zA-Z0-9_-]{1,64}\Z"},
            params=_ANY_OBJECT,
        )
    ),
)
_CHAT: Final = {
    "model": _TEXT,
    "messages": _list(_object("role content", role=_TEXT, content=_TEXT)),
    "reasoning_effort": _TEXT,
    "response_format": _object(
        "type json_schema",
        type={"const": "json_schema"},
        json_schema=_object(
            "name schema strict", name=_TEXT, schema=_ANY_OBJECT, strict={"type": "boolean"}
        ),
    ),
    "service_tier": _TEXT,
    "store": {"type": "boolean"},
}
# OpenAI's own API takes `max_completion_tokens` alone. Others take either.
CHAT_OWN: Final = _object(
    "model messages max_completion_tokens", **_CHAT, max_completion_tokens=_COUNT
)
CHAT: Final = {
    "oneOf": [CHAT_OWN, _object("model messages max_tokens", **_CHAT, max_tokens=_COUNT)]
}
_CHAT_PATH: Final = "/v1/chat/completions"
CHAT_BATCH: Final = _object(
    "input_file_id endpoint completion_window",
    input_file_id=_TEXT,
    endpoint={"const": _CHAT_PATH},
    completion_window={"const": "24h"},
    metadata={
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
    },
)
CHAT_LINE: Final = _object(
    "custom_id method url body",
    custom_id=_SOME_TEXT,
    method={"const": "POST"},
    url={"const": _CHAT_PATH},
    body=_ANY_OBJECT,
)


def read(raw: bytes | str, shape: dict[str, Any]) -> Any:
    """What a request's body says, or the 400 that the API would answer with."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise bad_request("The request body is not valid JSON") from error
    return fit(body, shape)


def fit(body: Any, shape: dict[str, Any]) -> Any:
    if wrong := next(Draft202012Validator(shape).iter_errors(body), None):
        raise bad_request(f"{'.'.join(map(str, wrong.absolute_path))}: {wrong.message}")
    return body
