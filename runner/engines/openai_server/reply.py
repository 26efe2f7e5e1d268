"""A server's reply → completions, strictly: what is no answer is `Unreadable`, and logprobs that
are none, or are another text's, are ``None``.

What is free and only counted (the usage) is 0 where it is odd.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.formats.foreign_json import Unreadable, clipped, count
from runner.types import Alternatives, Completion, Usage

# How servers write −∞, which JSON cannot hold: vLLM −9999, others the least float32, or null.
_IMPOSSIBLE = -9999.0
# A logprob of 0 may come out a little above it.
_LEAST_LOGPROB, _MOST_LOGPROB = -1e39, 1e-3
_ENDED = {"eos", "eos_token", "stop_token"}
_SORTS = {
    type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text",
    list: "a list", dict: "an object",
}  # fmt: skip

_Joined = tuple[tuple[str, ...], tuple[float, ...], tuple[Alternatives, ...]]


def completions(body: Any, model: str) -> list[Completion]:
    """One for each choice, each with the whole reply's usage.

    Raises:
        Unreadable: there is no choice, or one is no message.
    """
    choices = body.get("choices") if isinstance(body, dict) else body
    if not isinstance(choices, list) or not isinstance(body, dict):
        raise _wrong("`choices`", choices)
    if not choices:
        raise Unreadable("not as an OpenAI-compatible server's: `choices` is empty")
    usage = _usage(body.get("usage"))
    return [_completion(choice, model, usage) for choice in choices]


def _completion(choice: Any, model: str, usage: Usage) -> Completion:
    message = choice.get("message") if isinstance(choice, dict) else choice
    if not isinstance(message, dict):
        raise _wrong("a choice's `message`", message)
    text = _text(message.get("content"))
    tokens, logprobs, top = _joined(text, _entries(choice.get("logprobs"))) or ((), None, ())
    # vLLM's name for it, and the older one that SGLang and llama.cpp use.
    reasoning = (message.get(name) for name in ("reasoning", "reasoning_content"))
    return Completion(
        text=text,
        model=model,
        finish_reason=_finish(choice.get("finish_reason")),
        tokens=tokens,
        logprobs=logprobs,
        usage=usage,
        reasoning=next((each for each in reasoning if each and isinstance(each, str)), None),
        top=top,
    )


def _text(content: Any) -> str:
    """Of a message's content, which may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    if not isinstance(content, str):
        raise _wrong("a message's `content`", content)
    return content


def _wrong(what: str, found: Any) -> Unreadable:
    sort = _SORTS[type(found)]
    return Unreadable(f"not as an OpenAI-compatible server's: {what} is {sort}")


def _finish(reason: Any) -> str:
    """A known end by its usual name; anything else as it is, and the answer counts as cut off."""
    if reason is None:
        return "stop"
    named = reason.lower() if isinstance(reason, str) else ""
    if named in _ENDED:
        return "stop"
    return named if named.isidentifier() and len(named) <= 40 else clipped(reason, 40)


def _usage(given: Any) -> Usage:
    found = given if isinstance(given, dict) else {}
    return Usage(_counted(found.get("prompt_tokens")), _counted(found.get("completion_tokens")))


def _counted(given: Any) -> int:
    try:
        return count(given)
    except Unreadable:
        return 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """One token as the server gives it; ``top`` as well."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple[_Entry, ...] = ()


def _entries(given: Any) -> list[_Entry]:
    """The tokens with their logprobs; none where one of them is odd."""
    content = given.get("content") if isinstance(given, dict) else None
    found = [_entry(each) for each in content] if isinstance(content, list) else []
    return [entry for entry in found if entry is not None] if None not in found else []


def _entry(given: Any, *, alternative: bool = False) -> _Entry | None:
    """None where it is no token, or has no logprob: null is one that cannot be, so of the token
    that was taken it says nothing."""
    if not isinstance(given, Mapping):
        return None
    token, raw, logprob = (given.get(name) for name in ("token", "bytes", "logprob"))
    if not isinstance(token, str) or not isinstance(logprob, int | float):
        return None
    if isinstance(logprob, bool) or not _LEAST_LOGPROB < logprob <= _MOST_LOGPROB:
        return None
    options = given.get("top_logprobs")
    top = [
        option
        for each in (options if isinstance(options, list) and not alternative else ())
        if (option := _entry(each, alternative=True)) is not None and option.logprob > _IMPOSSIBLE
    ]
    return _Entry(token, _bytes(token, raw), float(logprob), tuple(top))


def _bytes(token: str, raw: Any) -> bytes:
    # Servers without `bytes` give the text alone.
    if isinstance(raw, list) and all(type(each) is int and 0 <= each < 256 for each in raw):
        return bytes(raw)
    return token.encode("utf-8", "replace")


def _joined(text: str, content: Sequence[_Entry]) -> _Joined | None:
    """The answer's pieces, logprobs and alternatives, out of a list that may begin with the
    reasoning's and may end with the end token's; ``None`` where no stretch of it joins to the
    text."""
    whole = text.encode("utf-8", "surrogatepass")
    given = [entry.bytes for entry in content]
    for ends in (0, 1):
        last = len(given) - ends
        first = _suffix(given[: max(0, last)], whole)
        if last < 0 or first is None:
            continue
        kept = given[first:last]
        begun = b""
        if kept:
            begun = kept[0][: sum(map(len, kept)) - len(whole)]
            kept[0] = kept[0].removeprefix(begun)
        pieces = (*_characters(kept), *[""] * ends)
        end = content[-1] if ends else None
        top = _top(content[first:], pieces, begun, end)
        return pieces, tuple(entry.logprob for entry in content[first:]), top
    return None


def _top(
    content: Sequence[_Entry], pieces: Sequence[str], begun: bytes, end: _Entry | None
) -> tuple[Alternatives, ...]:
    """Each token's alternatives, if the server gives any.

    Args:
        begun: the bytes of the first token that stand before the answer.
        end: the end token's entry, by which it is known among the alternatives.
    """

    def text(option: _Entry, position: int) -> str:
        own = content[position]
        if (option.token, option.bytes) == (own.token, own.bytes):
            return pieces[position]
        if end is not None and option.token == end.token:
            return ""
        written = option.bytes
        return (written if position else written.removeprefix(begun)).decode("utf-8", "replace")

    top = tuple(
        tuple(
            sorted(((text(o, position), o.logprob) for o in entry.top), key=lambda pair: -pair[1])
        )
        for position, entry in enumerate(content)
    )
    return top if any(top) else ()


def _suffix(given: Sequence[bytes], text: bytes) -> int | None:
    """Where the shortest run of pieces starts that ends the list and ends with ``text``."""
    first, length = len(given), 0
    while length < len(text) and first > 0:
        first -= 1
        length += len(given[first])
    if not any(given[:first]):
        first = 0  # the first parts of a character: no bytes of their own, but a logprob
    return first if b"".join(given[first:]).endswith(text) and (text or not given) else None


def _characters(given: Sequence[bytes]) -> list[str]:
    """A character of several tokens is its last token's."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in given]
