"""Reads one line of an OpenAI batch file, or says why it cannot be answered.

Such a line is ``{"custom_id", "method", "url", "body"}``; the body is that of a chat completion.
Settings without effect on the answer are ignored, supported ones are applied, and with any other
the line is refused: an answer to a different request would be worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

KEYS = ("custom_id", "method", "url", "body")
URL = "/v1/chat/completions"
NAMES = ("custom_id", "message", "messages", "body")
"""The fields of a record made from such a line."""

MOST_USD = "max_escalation_usd"
"""A further setting of a request to `surelocal serve`; not allowed in a file."""

_SEEDS = 1 << 63
# Accounts, caching, bookkeeping: answers do not depend on them. The job sets the model.
_WITHOUT_EFFECT = {
    "messages", "model", "metadata", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "stream_options", "user",
}  # fmt: skip
# Not supported, except with the values that request nothing.
_ONLY: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "logit_bias": ({},),
}
_WHY = {
    "stream": "an output file cannot stream",
    "n": "a record has one answer",
    "tools": "calling tools is not supported",
    "functions": "calling functions is not supported",
}
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (lambda v: _whole(v) and v >= 1, "a whole number from 1 up"),
    "max_completion_tokens": (lambda v: _whole(v) and v >= 1, "a whole number from 1 up"),
    "temperature": (lambda v: _number(v) and 0 <= v <= 2, "a number from 0 to 2"),
    "seed": (lambda v: _whole(v) and -_SEEDS <= v < _SEEDS, "a whole number of 64 bits"),
    "top_p": (lambda v: _number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "frequency_penalty": (lambda v: _number(v) and -2 <= v <= 2, "a number from -2 to 2"),
    "presence_penalty": (lambda v: _number(v) and -2 <= v <= 2, "a number from -2 to 2"),
    "stop": (lambda v: _stops(v), "a text or up to four texts"),
}
_SAMPLING = {
    "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "temperature": "temperature", "seed": "seed",
}  # fmt: skip
_SETS = ("required", "enum", "type")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def is_batch_line(line: object) -> bool:
    """Whether a line's keys are those of a batch file."""
    return isinstance(line, dict) and all(key in line for key in KEYS)


def fields_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as a record's fields: ``messages`` as plain text, ``message``, the last one of the
    user, and ``body``, the rest of the request.

    Raises:
        ValueError: what is not supported, and the fix.
    """
    if line["method"] != "POST":
        raise ValueError(f"`method` is {line['method']!r}; a chat completion needs POST")
    if line["url"] != URL:
        raise ValueError(f"`url` is {line['url']!r}; only {URL} is supported")
    body = line["body"]
    if not isinstance(body, dict):
        raise ValueError("`body` is not an object; it must be that of a chat completion")
    messages = _messages(body.get("messages"))
    _check(body)
    answer_of(body.get("response_format"))
    users = [m["content"] for m in messages if m["role"] == "user"]
    return {
        "custom_id": line["custom_id"],
        "message": users[-1] if users else "",
        "messages": messages,
        "body": {name: value for name, value in body.items() if name != "messages"},
    }


def sampling_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings of a body, in the form of `runner.types.Prompt.own`."""
    given = {name: body[name] for name in _SETTINGS if body.get(name) is not None}
    own = {_SAMPLING[name]: value for name, value in given.items() if name in _SAMPLING}
    extra = {name: value for name, value in given.items() if name not in _SAMPLING}
    return own | ({"extra": extra} if extra else {})


def most_usd(fields: Mapping[str, Any]) -> Decimal | None:
    """The spending limit in a record's request, in US dollars; None if it has none."""
    body = fields.get("body")
    most = body.get(MOST_USD) if isinstance(body, Mapping) else None
    return None if most is None else Decimal(str(most))


def answer_of(asked: object) -> dict[str, Any]:
    """A ``response_format`` as a job's ``answer``.

    Raises:
        ValueError: it is malformed or not supported.
    """
    if asked is None:
        return {"text": True}
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "text":
        return {"text": True}
    if kind == "json_object":
        return {"schema": {"type": "object"}}
    given = asked.get("json_schema") if isinstance(asked, dict) else None
    schema = given.get("schema") if isinstance(given, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise ValueError(
            "`body.response_format` must be text, json_object, or json_schema with its `schema`"
        )
    if schema.get("type") != "object":
        raise ValueError("`body.response_format`: its schema must describe an object")
    return {"schema": schema}


def in_one_order(part: Any, key: str = "") -> str:
    """A schema, or a value that contains one, as canonical text: the order of keys, and of lists
    that are sets, does not matter."""
    if isinstance(part, dict):
        each = (f"{json.dumps(name)}: {in_one_order(part[name], name)}" for name in sorted(part))
        return "{" + ", ".join(each) + "}"
    if isinstance(part, list):
        texts = [in_one_order(each) for each in part]
        return f"[{', '.join(sorted(texts) if key in _SETS else texts)}]"
    return json.dumps(part)


def _messages(given: object) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given:
        raise ValueError("`body.messages` has no messages")
    messages = [_message(one, f"`body.messages[{n}]`") for n, one in enumerate(given)]
    if messages[-1]["role"] == "assistant":
        raise ValueError("the last of `body.messages` is the assistant's, so there is no question")
    return messages


def _message(given: object, where: str) -> dict[str, str]:
    role = given.get("role") if isinstance(given, dict) else None
    if not isinstance(given, dict) or role not in _ROLES:
        raise ValueError(f"{where}: its role {role!r} is not one of {', '.join(_ROLES)}")
    if given.get("tool_calls") or given.get("function_call"):
        raise ValueError(f"{where} calls tools, which is not supported; leave it out")
    content = given.get("content")
    if isinstance(content, list) and content:
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"{where}: its content is neither a text nor a list of texts")
    return {"role": _ROLES[role], "content": content}


def _part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind == "text" and isinstance(text, str):
        return text
    what = {
        "image_url": "an image", "input_audio": "a recording", "file": "a file",
    }.get(str(kind), f"a part of type {kind!r}")  # fmt: skip
    raise ValueError(f"{where} holds {what}; only text is supported")


def _check(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None or name in _WITHOUT_EFFECT or name == "response_format":
            continue
        if name in _SETTINGS:
            holds, what = _SETTINGS[name]
            if not holds(value):
                raise ValueError(f"`body.{name}` is {_short(value)}, but must be {what}")
        elif name not in _ONLY:
            raise ValueError(
                f"`body.{name}` is not supported; leave it out, or set it for all records in the "
                "job's `local`"
            )
        elif not any(type(value) is type(one) and value == one for one in _ONLY[name]):
            why = _WHY.get(name, "that is not supported")
            raise ValueError(f"`body.{name}` is {_short(value)}: {why}; leave it out")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stops(value: object) -> bool:
    stops: Sequence[object] = value if isinstance(value, list) else [value]
    return 1 <= len(stops) <= 4 and all(isinstance(one, str) and one for one in stops)
