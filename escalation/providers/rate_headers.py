"""Rate-limit headers of both APIs, read into one shape."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

Limits = dict[str, tuple[float, float, float]]
"""What is limited → its limit, what remains of it, and in how many seconds all of it is back.
``requests``, ``input`` and ``output`` tokens, and ``tokens``: both, and the output as asked for."""

_ANTHROPIC = {"requests": "requests", "input": "input-tokens", "output": "output-tokens"}
_OPENAI = {"requests": "requests", "tokens": "tokens"}
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms]|$)")


def anthropic_limits(headers: Mapping[str, str]) -> Limits:
    """Of ``anthropic-ratelimit-…``; what is missing or unreadable counts as nothing said."""
    found: Limits = {}
    now = _server_time(headers)
    for name, theirs in _ANTHROPIC.items():
        given = [headers.get(f"anthropic-ratelimit-{theirs}-{part}") for part in _PARTS]
        if None not in given:
            _put(found, name, given, _until(given[2] or "", now))
    return found


def openai_limits(headers: Mapping[str, str]) -> Limits:
    """The same of ``x-ratelimit-…``, whose resets are durations: ``6m0s``, ``120ms``."""
    found: Limits = {}
    for name, theirs in _OPENAI.items():
        given = [headers.get(f"x-ratelimit-{part}-{theirs}") for part in _PARTS]
        if None not in given:
            _put(found, name, given, _duration(given[2] or ""))
    return found


_PARTS = ("limit", "remaining", "reset")


def _put(found: Limits, name: str, given: list[str | None], reset_s: float | None) -> None:
    try:
        limit, remaining = float(given[0] or ""), float(given[1] or "")
    except ValueError:
        return
    # Whatever is no finite number says nothing.
    if reset_s is not None and math.isfinite(limit + remaining + reset_s) and limit > 0:
        found[name] = (limit, remaining, max(0.0, reset_s))


def _server_time(headers: Mapping[str, str]) -> float:
    """By the server's own clock where it says it: resets are times of day, and clocks differ."""
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return time.time()


def _until(reset: str, now: float) -> float | None:
    try:
        return datetime.fromisoformat(reset).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    pieces = _PIECE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in pieces)
