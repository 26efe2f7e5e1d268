"""What comes back from a paid call, and what it means for the money."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, get_args

from runner.formats.foreign_json import Unreadable, clipped, count, one_line, parse
from runner.formats.urls import hidden
from runner.types import Completion, Constraint, Prompt, Usage

LABEL = "label"
"""The one property of the object that a plain label comes in: APIs want objects."""
LONGEST_S = 1e9
"""A pause of so many seconds, or of more, is one that nobody waits for."""

Verdict = Literal["ok", "retry", "reject", "halt", "unknown", "unsent"]
"""``ok``: done, and billed; what its body holds is the provider's to read. ``retry``: not billed,
try again. ``reject``: not billed, this request will never do. ``halt``: not billed, no request
will do (key, spend limit). ``unknown``: perhaps billed, no readable answer. ``unsent``: never left
the machine."""
_VERDICTS = frozenset(get_args(Verdict))


@dataclass(frozen=True, slots=True)
class Reply:
    """``overloaded``: the provider is in trouble, not this request; ``unreachable``: and that is
    since nobody connects there, or answers in time. ``limits``: what its headers said of its rate
    limits (`escalation.providers.rate_headers.Limits`)."""

    verdict: Verdict
    body: Mapping[str, Any] | None = None
    request_id: str | None = None
    problem: str | None = None
    retry_after_s: float | None = None
    overloaded: bool = False
    unreachable: bool = False
    limits: Mapping[str, Sequence[float]] | None = None

    def as_json(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_json(cls, value: object) -> Reply:
        """What `as_json` wrote, in this version or a former one.

        Raises:
            Unreadable: it is no reply.
        """
        given = value if isinstance(value, dict) else {}
        verdict, body = given.get("verdict"), given.get("body")
        if not isinstance(verdict, str) or verdict not in _VERDICTS:
            raise Unreadable(f"{clipped(verdict)} is no verdict on a call")
        if body is not None and not isinstance(body, dict):
            raise Unreadable("its body is no object")
        pause, limits = given.get("retry_after_s"), given.get("limits")
        return cls(
            verdict,  # type: ignore[arg-type]
            body=body,
            request_id=_said(given.get("request_id")),
            problem=_said(given.get("problem")),
            retry_after_s=seconds(pause),
            overloaded=given.get("overloaded") is True,
            unreachable=given.get("unreachable") is True,
            limits=limits if _are_limits(limits) else None,
        )


def _said(value: object) -> str | None:
    return None if value is None else one_line(value)


def _are_limits(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(row, list)
        and len(row) == 3
        and all(isinstance(each, int | float) and math.isfinite(each) for each in row)
        for row in value.values()
    )


@dataclass(frozen=True, slots=True)
class Bill:
    """What a reply says of its cost. ``served``: how it was, as far as that changes the price
    (`escalation.providers.prices.times`)."""

    usage: Usage
    served: Mapping[str, str] = field(default_factory=dict)


def tokens(usage: Mapping[str, Any], name: str, *, needed: bool = False) -> int:
    """A count of a usage's; null and absent are 0 where it is not ``needed``.

    Raises:
        Unreadable: it is no count.
    """
    value = usage.get(name)
    if value is None and not needed:
        return 0
    try:
        return count(value)
    except Unreadable as error:
        raise Unreadable(f"{name}: {error}") from None


def part_of(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within another; null and absent are an empty one.

    Raises:
        Unreadable: it is something else.
    """
    value = whole.get(name)
    if value is not None and not isinstance(value, dict):
        raise Unreadable(f"{name}: {clipped(value)} is no object")
    return value or {}


def text_of(whole: Mapping[str, Any], name: str) -> str | None:
    """A text within an object; None where it is null or absent.

    Raises:
        Unreadable: it is something else.
    """
    value = whole.get(name)
    if value is not None and not isinstance(value, str):
        raise Unreadable(f"{name}: {clipped(value)} is no text")
    return value


def served(usage: Mapping[str, Any], *names: str) -> dict[str, str]:
    """How a reply says that it was served, where it does."""
    given = {name: usage[name] for name in names if usage.get(name) is not None}
    # To the letter: what only looks like a name that is known may be billed otherwise.
    return {n: said if isinstance(said, str) else clipped(said) for n, said in given.items()}


class Provider(Protocol):
    """One closed API: a request out of a prompt, a bill and a completion out of a reply's body.

    It is made of a job's `escalation`. All methods are pure; the sending is `Wire`'s, in the
    courier's process.
    """

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """The request's JSON body, in the key order in which it is sent."""
        ...

    def completion(self, body: Mapping[str, Any]) -> Completion:
        """The answer, without its usage. Raises ValueError where it cannot be read."""
        ...

    def bill(self, body: Mapping[str, Any]) -> Bill:
        """Raises ValueError where it cannot be read."""
        ...


class Wire(Protocol):
    """The sending half: one HTTP request per call, no retries of its own, never raises.

    It is made of the address, the variable that holds the key, the seconds that a call may take,
    and how many are under way at once.
    """

    async def send(self, request: Mapping[str, Any]) -> Reply: ...

    async def aclose(self) -> None: ...


class Key:
    """An API key out of the environment, without the spaces and line ends that pasting adds.
    ``url``: where it is sent."""

    def __init__(self, name: str | None, url: str | None = None) -> None:
        self.name = name
        self._url = url
        self.value = os.environ[name].strip() if name else ""
        # Anything else the transport would refuse to send, in an error that shows it.
        usable = self.value.isascii() and self.value.isprintable()
        self.problem = None if usable else f"what is in {name} cannot be a key"

    def hidden(self, text: str) -> str:
        """The text without the key, which SDKs and servers repeat in their complaints, and without
        the login of the address."""
        return hidden(text.replace(self.value, "(the key)") if self.value else text, self._url)

    def line(self, *words: object) -> str:
        """Somebody else's words as one short line without the key."""
        texts = [word if isinstance(word, str) else one_line(word) for word in words]
        return one_line(" ".join(self.hidden(text) for text in texts if text))


def unanswered(timeout_s: float) -> Reply:
    """Of a call that had its time: it may be billed, and the next is as likely to be lost."""
    problem = f"no whole reply within {timeout_s:g} s"
    return Reply("unknown", problem=problem, overloaded=True, unreachable=True)


def received(
    content: bytes, request_id: str | None, limits: Mapping[str, Sequence[float]] | None
) -> Reply:
    """A reply whose body came whole."""
    try:
        body = parse(content, odd_numbers=True)
    except Unreadable as error:
        problem = f"the reply's body is not readable: {one_line(str(error))}"
        return Reply("unknown", request_id=_said(request_id), problem=problem)
    return answered(body, request_id, limits)


def answered(
    body: object,
    request_id: object = None,
    limits: Mapping[str, Sequence[float]] | None = None,
) -> Reply:
    """The same of a body that `parse` gave, with ``odd_numbers``."""
    if not isinstance(body, dict):
        problem = "the reply's body is not readable: it is no object"
        return Reply("unknown", request_id=_said(request_id), problem=problem)
    return Reply("ok", body=body, request_id=_said(request_id), limits=limits)


def bare(completion: Completion, constraint: Constraint) -> Completion:
    """A label out of the object that it was asked for in; any other answer as it is, whatever it
    looks like."""
    if not constraint.labels:
        return completion
    try:
        value = parse(completion.text)
    except Unreadable:
        return completion
    if isinstance(value, dict) and set(value) == {LABEL} and isinstance(value[LABEL], str):
        return replace(completion, text=value[LABEL])
    return completion


def overloaded(status: int, retry_after_s: float | None) -> bool:
    """A 429 that names its pause is a rate limit, and the provider is well."""
    return status in (503, 529) or (status == 429 and retry_after_s is None)


def seconds(header: object) -> float | None:
    """A date, or what is no number of seconds, counts as nothing said."""
    if not isinstance(header, str | int | float):
        return None
    try:
        seconds = float(header)
    except (ValueError, OverflowError):
        return None
    return min(seconds, LONGEST_S) if seconds >= 0 else None
