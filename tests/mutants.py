"""Sound replies of both APIs, made odd: by their values, their bytes, their headers, their status.

`sound` makes a reply, `mutate` an odd one of it, and `Reading` says what is in it by a reading of
its own: whether there is an answer, and what it costs.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from runner.formats.foreign_json import Unreadable, parse
from tests.odd_api import Odd

Value = Any
ANSWERS = ("card_arrival", "lost_card")
DEEP = 3000
COUNTS: list[Value] = [
    0, 1, 7, 10**9, 10**9 + 1, 10**13, -1, -(10**12), 1.5, 3.0, 1e300, "12", "", None, True, [],
    [3], {}, {"n": 1}, float("inf"), float("-inf"), float("nan"), "\ud800", "9" * 400,
]  # fmt: skip
NASTIES: list[Value] = [
    *COUNTS, "a" * 100_000, "[" * 1000, "{" * 1000, "\x00\x1b[31m\r\n\u2028\u202e", "\udfff" * 9,
    [[[[[]]]]], ["text", "more"], [None], [{}], {"type": "text"}, {"text": 5}, False, "null",
]  # fmt: skip
TEXTS: list[str] = [
    "[" * 1000, "(" * 1000 + "[" * 1000, '{"a":' * 1000, "[" * 90 + "]" * 90, "NaN", "9" * 5000,
    '{"intent": ' + "9" * 5000 + "}", '{"intent": "lost_card", "intent": NaN}', "\ud800", "\x00",
    '{"intent": "\\ud800"}', '{"intent": "lost_card"}\u2028', '{"intent": 1e999}', "", " ", "null",
    '{"label": "lost_card"}', '{"value": {"intent": "lost_card"}}', '{"intent": "LOST_CARD"}',
    "[" + "{}," * 5000 + "{}]", '"' + "a" * 200_000 + '"', "{" * 50 + "\x1b]0;x\x07",
]  # fmt: skip
HEADERS: list[tuple[str, bytes]] = [
    ("retry-after", b"nan"), ("retry-after", b"-5"), ("retry-after", b"\xff\xfe"),
    ("content-type", b"text/html"), ("content-type", b"application/json; charset=utf-16"),
    ("content-type", b"application/json; charset=klingon"), ("content-type", b""),
    ("request-id", b"\xff\x80 odd"), ("x-request-id", b"\xf0\x9f\x98\x80" * 500),
    ("x-ratelimit-limit-requests", b"inf"), ("x-ratelimit-remaining-requests", b"nan"),
    ("x-ratelimit-reset-requests", b"9" * 400 + b"s"), ("date", b"Mon, 99 Foo 0000 99:99:99 GMT"),
    ("anthropic-ratelimit-requests-limit", b"1e308"),
    ("anthropic-ratelimit-requests-remaining", b"-1e308"),
    ("anthropic-ratelimit-requests-reset", b"0001-01-01T00:00:00+23:59"),
    ("set-cookie", b"a=b; \x80"), ("location", b"http://127.0.0.1:1/elsewhere"),
]  # fmt: skip
REFUSED = (400, 409, 413, 418, 422, 451)
LOST = (500, 502, 504, 599)
RETRIED = (408, 429)


def sound(provider: str, number: int) -> dict[str, Any]:
    """A reply with an answer of its own and a price of its own."""
    text, fresh = json.dumps({"intent": ANSWERS[number % 2]}), 20 + number % 50
    if provider == "anthropic":
        created = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0}
        usage = {
            "input_tokens": fresh, "output_tokens": 9, "cache_creation_input_tokens": 10,
            "cache_read_input_tokens": 5, "cache_creation": created, "service_tier": "standard",
            "inference_geo": "global", "speed": "standard", "server_tool_use": None,
        }  # fmt: skip
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant",
            "model": "claude-sonnet-5-5", "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
        }  # fmt: skip
    usage = {
        "prompt_tokens": fresh + 15, "completion_tokens": 9, "total_tokens": fresh + 24,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1,
        "model": "gpt-6.1-sol", "usage": usage, "service_tier": "default",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
    }  # fmt: skip


# --- how it is made odd ---------------------------------------------------------------------------


def _spots(value: Value) -> list[tuple[Any, Any]]:
    """Every (container, key) in it."""
    found = []
    children = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in children:
        found.append((value, key))
        if isinstance(child, dict | list):
            found += _spots(child)
    return found


def _retype(chance: random.Random, body: Value) -> None:
    holder, key = chance.choice(_spots(body))
    holder[key] = copy.deepcopy(chance.choice(NASTIES))


def _drop(chance: random.Random, body: Value) -> None:
    holder, key = chance.choice(_spots(body))
    del holder[key]


def _wrap(chance: random.Random, body: Value) -> None:
    holder, key = chance.choice(_spots(body))
    deep = chance.choice([1, 2, 50, 80, 120, 500])
    for _ in range(deep):
        holder[key] = [holder[key]] if chance.random() < 0.5 else {"x": holder[key]}


def _bad_usage(chance: random.Random, body: Value) -> None:
    if isinstance(body.get("usage"), dict):
        holder, key = chance.choice(_spots(body["usage"]))
        holder[key] = copy.deepcopy(chance.choice(COUNTS))


def _served(chance: random.Random, body: Value) -> None:
    where = body.get("usage") if chance.random() < 0.7 else body
    if isinstance(where, dict):
        names = ["inference_geo", "service_tier", "speed"]
        where[chance.choice(names)] = chance.choice(["us", "global", "eu", "priority", "fast", 5])


def _bad_text(chance: random.Random, body: Value) -> None:
    text = chance.choice(TEXTS)
    for holder, key in _spots(body):
        if key in ("text", "content") and isinstance(holder.get(key), str):
            holder[key] = text


def _more(chance: random.Random, body: Value) -> None:
    lists = [h[k] for h, k in _spots(body) if isinstance(h[k], list)]
    if lists:
        chosen = chance.choice(lists)
        chosen.append(copy.deepcopy(chance.choice([*chosen, *NASTIES])))


BY_VALUE: list[Callable[[random.Random, Value], None]] = [
    _retype, _retype, _drop, _wrap, _bad_usage, _bad_usage, _served, _bad_text, _bad_text, _more,
]  # fmt: skip


def _bytes(chance: random.Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    ways: list[Callable[[], bytes]] = [
        lambda: body[:at],
        lambda: body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :],
        lambda: body[:at] + b"\x00" + body[at:],
        lambda: b"\xef\xbb\xbf" + body,
        lambda: body.decode("utf-8", "replace").encode("utf-16"),
        lambda: body + body,
        lambda: b"",
        lambda: b"<html><body>Please sign in</body></html>",
        lambda: b"[" * chance.choice([50, 500, DEEP]) + body,
        lambda: b'{"a":' * DEEP + body + b"}" * DEEP,
        lambda: chance.choice([b"null", b"[]", b'"text"', b"5", b"{}", b'{"error": {}}']),
        lambda: body.replace(b"{", b'{"usage": null, ', 1),  # twice the same name
        lambda: body[:-1] + b', "usage": {"input_tokens": -5, "output_tokens": 1}}',
        lambda: b" " * 100_000 + body,
    ]
    return chance.choice(ways)()


def _packed(chance: random.Random, odd: Odd) -> Odd:
    coding, body = chance.choice(
        [
            (b"gzip", gzip.compress(odd.body)),
            (b"deflate", zlib.compress(odd.body)),
            (b"gzip", gzip.compress(odd.body)[:-9]),
            (b"gzip", odd.body),
            (b"gzip, gzip, gzip", gzip.compress(gzip.compress(gzip.compress(odd.body)))),
            (b"br", odd.body),
            (b"gzip", gzip.compress(odd.body + b" " * 2_000_000)),
        ]
    )
    return replace(odd, body=body, headers=(*odd.headers, ("content-encoding", coding)))


def mutate(chance: random.Random, body: dict[str, Any], *, http: bool = True) -> Odd:
    """``http`` false: by its values and bytes alone, for what stands within another reply."""
    whole = copy.deepcopy(body)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        try:
            chance.choice(BY_VALUE)(chance, whole)
        except (AttributeError, TypeError, IndexError, RecursionError):
            break  # what a former mutation left cannot be mutated so
    in_ascii = chance.random() < 0.8
    try:
        text = json.dumps(whole, ensure_ascii=in_ascii)
    except RecursionError:  # one deep value within another: deeper than this can be written
        text = '{"x":' * 100_000
    odd = Odd(text.encode("utf-8", "replace"))
    draw = chance.random()
    if draw < 0.2:
        odd = replace(odd, body=_bytes(chance, odd.body))
    if not http:
        return replace(odd, body=odd.body.removeprefix(b"\xef\xbb\xbf"))
    if chance.random() < 0.2:
        headers = chance.sample(HEADERS, chance.randrange(1, 4))
        odd = replace(odd, headers=tuple(dict(headers).items()))
    if draw > 0.92:
        odd = replace(odd, status=chance.choice([*REFUSED, *LOST, *RETRIED, 201, 203, 206]))
    elif draw > 0.88:
        odd = replace(odd, ends=chance.choice(["cut", "cut_chunked", "unsized", "reset"]))
    elif draw > 0.84:
        odd = _packed(chance, odd)
    return odd


# --- what is in it, by a reading of its own -------------------------------------------------------

# US dollars per million tokens: input, output, five-minute write, hour's write, read.
_PRICES = {
    "anthropic": [Decimal(p) for p in ("2", "10", "2.5", "4", "0.1")],
    "openai": [Decimal(p) for p in ("2", "10", "2.5", "4", "0.1")],
}
_LONG = {"openai": (272_000, [Decimal(p) for p in ("4", "15", "5", "8", "0.2")])}


@dataclass(frozen=True, slots=True)
class Reading:
    """``body``: whether it could be read at all. ``usd``: what it costs; None where that cannot
    be told. ``dearer``: it may be more than that. ``answer``: whether there is a valid one."""

    body: bool = False
    usd: Decimal | None = None
    dearer: bool = False
    answer: bool = False


def read(provider: str, odd: Odd, kind: str = "schema") -> Reading:
    content = _unpacked(odd)
    if content is None or odd.ends in ("cut", "cut_chunked", "reset"):
        return Reading()
    try:
        body = parse(content, odd_numbers=True)
    except Unreadable:
        return Reading()
    if not isinstance(body, dict):
        return Reading()
    counts = _claude_counts(body) if provider == "anthropic" else _chat_counts(body)
    usd = None if counts is None else _price(provider, counts)
    factor = _factor(provider, body)
    dearer = factor is None
    if usd is not None and factor is not None:
        usd *= factor
    return Reading(True, usd, dearer, _answered(provider, body, kind))


def _unpacked(odd: Odd) -> bytes | None:
    coding = dict(odd.headers).get("content-encoding", b"")
    if not coding:
        return odd.body
    if coding not in (b"gzip", b"deflate"):
        return None
    try:
        return zlib.decompressobj(47).decompress(odd.body)
    except zlib.error:
        return None


def _whole(value: Value) -> int | None:
    if value is None:
        return 0
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**9
    return value if fits else None


def _claude_counts(body: Mapping[str, Any]) -> list[int] | None:
    usage = body.get("usage")
    if not isinstance(usage, dict) or not isinstance(usage.get("cache_creation"), dict | None):
        return None
    split = usage.get("cache_creation") or {}
    given = [
        usage.get("input_tokens"), usage.get("output_tokens"),
        usage.get("cache_creation_input_tokens"), split.get("ephemeral_5m_input_tokens"),
        split.get("ephemeral_1h_input_tokens"), usage.get("cache_read_input_tokens"),
    ]  # fmt: skip
    counts = [_whole(value) for value in given]
    if None in counts or None in given[:2]:
        return None
    fresh, output, written, short, hour, kept = [count or 0 for count in counts]
    return [fresh, output, max(written - hour, short), hour, kept]


def _chat_counts(body: Mapping[str, Any]) -> list[int] | None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    if details is not None and not isinstance(details, dict):
        return None
    details = details or {}
    given = [
        usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens"),
        details.get("cached_tokens"), details.get("cache_write_tokens"),
    ]  # fmt: skip
    counts = [_whole(value) for value in given]
    if None in counts or None in given[:2]:
        return None
    prompt, output, total, kept, written = [count or 0 for count in counts]
    return [max(0, prompt - kept - written), max(output, total - prompt), written, 0, kept]


def _price(provider: str, counts: list[int]) -> Decimal:
    prices = _PRICES[provider]
    if provider in _LONG and counts[0] + sum(counts[2:]) > _LONG[provider][0]:
        prices = _LONG[provider][1]
    each = (count * price for count, price in zip(counts, prices, strict=True))
    return sum(each, Decimal(0)) / 1_000_000


def _factor(provider: str, body: Mapping[str, Any]) -> Decimal | None:
    """None where nobody can tell."""
    if provider == "openai":
        plain = body.get("service_tier") in (None, "default", "auto", "standard", "flex", "batch")
        return Decimal(1) if plain else None
    usage = body.get("usage")
    given = usage if isinstance(usage, dict) else {}
    known: dict[str, dict[Any, str]] = {
        "inference_geo": {None: "1", "global": "1", "us": "1.1"},
        "service_tier": {None: "1", "standard": "1", "batch": "1"},
        "speed": {None: "1", "standard": "1"},
    }
    factor = Decimal(1)
    for name, values in known.items():
        value = given.get(name)
        if not isinstance(value, str | None) or value not in values:
            return None
        factor *= Decimal(values[value])
    return factor


def _answered(provider: str, body: Mapping[str, Any], kind: str) -> bool:
    """Whether there is exactly one answer, whole, and as the job wants it."""
    if not isinstance(body.get("model"), str | None):
        return False
    text = _claude_text(body) if provider == "anthropic" else _chat_text(body)
    if kind == "text" or text is None:
        return text is not None and bool(text.strip())
    try:
        value = parse(text.strip())
    except Unreadable:
        return False
    if not isinstance(value, dict) or set(value) != {"intent"}:
        return False
    intent = value["intent"]
    return isinstance(intent, str) and intent.casefold() in ANSWERS


def _claude_text(body: Mapping[str, Any]) -> str | None:
    blocks = body.get("content")
    if body.get("stop_reason") not in ("end_turn", "stop_sequence", "stop"):
        return None
    if not isinstance(blocks, list) or any(not isinstance(b, dict) for b in blocks):
        return None
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    return "".join(texts) if all(isinstance(t, str) for t in texts) else None


def _chat_text(body: Mapping[str, Any]) -> str | None:
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    if choices[0].get("finish_reason") not in (None, "", "stop", "end_turn", "stop_sequence"):
        return None
    message = choices[0].get("message")
    if not isinstance(message, dict) or not isinstance(message.get("refusal"), str | None):
        return None
    content = message.get("content")
    return content if isinstance(content, str) and not message.get("refusal") else None
