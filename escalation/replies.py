"""What comes back from a paid call, and what it means for the money."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from runner.types import Completion, Prompt

LABEL = "label"
"""The one property of the object that a plain label comes in: APIs want objects."""

Verdict = Literal["ok", "retry", "reject", "halt", "unknown", "unsent"]
"""``ok``: billed, with a readable answer. ``retry``: not billed, try again. ``reject``: not billed,
this request will never do. ``halt``: not billed, no request will do (key, spend limit).
``unknown``: perhaps billed, no readable answer. ``unsent``: never left the machine."""


@dataclass(frozen=True, slots=True)
class Reply:
    """``overloaded``: the provider is in trouble, not this request; ``unreachable``: and that is
    since nobody connects there, or answers in time. ``limits``: what its headers said of its rate
    limits (`escalation.limits.Limits`)."""

    verdict: Verdict
    body: Mapping[str, Any] | None = None
    request_id: str | None = None
    problem: str | None = None
    retry_after_s: float | None = None
    overloaded: bool = False
    unreachable: bool = False
    limits: Mapping[str, Sequence[float]] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Provider(Protocol):
    """One closed API: a request out of a prompt, a completion out of a reply's body.

    Both are pure; the sending is `Wire`'s, in the courier's process.
    """

    name: str
    url: str

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """The request's JSON body, in the key order in which it is sent."""
        ...

    def completion(self, body: Mapping[str, Any]) -> Completion:
        """Raises ValueError where the body is not what the API promises."""
        ...


class Wire(Protocol):
    """The sending half: one HTTP request per call, no retries of its own, never raises."""

    async def send(self, request: Mapping[str, Any]) -> Reply: ...

    async def aclose(self) -> None: ...


class Key:
    """An API key out of the environment, without the spaces and line ends that pasting adds."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.value = os.environ[name].strip() if name else ""
        # Anything else the transport would refuse to send, in an error that shows it.
        usable = self.value.isascii() and self.value.isprintable()
        self.problem = None if usable else f"what is in {name} cannot be a key"

    def hidden(self, text: str) -> str:
        """The text without the key, which SDKs and servers repeat in their complaints."""
        return text.replace(self.value, "(the key)") if self.value else text


CONNECT_S = 10.0
"""For a connection alone: a host that does not take one is not waited for as a long answer is."""


def unconnected(error: Exception, key: Key, timeout_s: float) -> Reply:
    """What the SDK's connection error says of the money: without a connection nothing has left,
    and once there was one the call may have been billed."""
    import httpx2

    cause = error.__cause__
    unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    if isinstance(cause, httpx2.TimeoutException) and not unsent:
        return unanswered(timeout_s)
    why = str(cause or "") or type(cause or error).__name__
    problem = key.hidden(f"the connection failed: {why}")
    verdict: Verdict = "retry" if unsent else "unknown"
    return Reply(verdict, problem=problem, overloaded=unsent, unreachable=unsent)


def unanswered(timeout_s: float) -> Reply:
    """Of a call that had its time: it may be billed, and the next is as likely to be lost."""
    problem = f"no whole reply within {timeout_s:g} s"
    return Reply("unknown", problem=problem, overloaded=True, unreachable=True)


def received(
    content: bytes, request_id: str | None, limits: Mapping[str, Sequence[float]] | None
) -> Reply:
    """A reply whose body came whole; without its usage nobody can tell what it cost."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("usage"), dict):
        problem = "the reply's body is not readable"
        return Reply("unknown", request_id=request_id, problem=problem)
    return Reply("ok", body=body, request_id=request_id, limits=limits)


def unwrap(text: str) -> str:
    """A label that came as ``{"label": …}``, bare."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    if isinstance(value, dict) and set(value) == {LABEL} and isinstance(value[LABEL], str):
        return str(value[LABEL])
    return text


def overloaded(status: int, retry_after_s: float | None) -> bool:
    """A 429 that names its pause is a rate limit, and the provider is well."""
    return status in (503, 529) or (status == 429 and retry_after_s is None)


def seconds(header: str | None) -> float | None:
    """A date, or what is no number of seconds, counts as nothing said."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if seconds >= 0 else None
