"""Strict parsing of foreign JSON (a reply, a results file, an answer).

A parsed value can be traversed, encoded as UTF-8 and stored: it has no nesting that overflows the
stack, no NaN or infinity, and no lone surrogate.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MOST_BYTES = 32 * 1024 * 1024
MOST_DEPTH = 100
MOST_COUNT = 10**9
MOST_DIGITS = 1000

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_HALF = re.compile("[\ud800-\udfff]")


class Unreadable(ValueError):
    """The text is not usable JSON; the message is a clause that says why."""


def parse(
    content: bytes | str,
    *,
    most_bytes: int = MOST_BYTES,
    most_depth: int = MOST_DEPTH,
    odd_numbers: bool = False,
) -> Any:
    """Parses a JSON text, UTF-8 with or without a BOM.

    Lone surrogates in strings become U+FFFD, since files and databases cannot store them. With
    ``odd_numbers``, a number that is not finite or is too long is returned as text, and a key with
    two different values gets a text as well: one bad count does not spoil the values beside it, and
    the lower of two amounts is never used.

    Raises:
        Unreadable: over ``most_bytes``, nested over ``most_depth``, or not strict JSON.
    """
    if len(content) > most_bytes:
        raise Unreadable(f"over {most_bytes:,} bytes")
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        if _nested_over(text, most_depth):
            raise Unreadable(f"nested over {most_depth} deep")
        value = (_LENIENT if odd_numbers else _STRICT).decode(text)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {str(error)[:200]}") from None
    return _whole(value) if "\\u" in text or _HALF.search(text) else value


def _nested_over(text: str, most: int) -> bool:
    """Whether the brackets outside strings nest deeper than ``most``."""
    if text.count("[") + text.count("{") <= most:
        return False  # most texts end here
    now = 0
    for bracket in _NO_BRACKET.sub("", _STRING.sub("", text)):
        now += 1 if bracket in "[{" else -1
        if now > most:
            return True
    return False


def whole(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate."""
    return _HALF.sub("\ufffd", text)


def count(value: object, most: int = MOST_COUNT) -> int:
    """Checks a count: a whole number from 0 to ``most``. The caller handles null and absence.

    Raises:
        Unreadable: any other value, including `True` and 3.0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Unreadable(f"{clipped(value)} is not a count from 0 to {most:,}")
    return value


def clipped(value: object, most: int = 80) -> str:
    """The value for a message: one line, bounded, without control codes."""
    try:
        text = ascii(value[:most] if isinstance(value, (str, bytes)) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(value: object, most: int = 500) -> str:
    """Foreign text for a message: one line, bounded, without control codes."""
    text = value if isinstance(value, str) else "" if value is None else clipped(value, most)
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else f"{shown[:most]}…"


def _refuse(constant: str) -> NoReturn:
    raise Unreadable(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unreadable(f"{digits[:20]} is not a finite number")
    return number


def _finite_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _int_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # an earlier null does not conflict
        twice = (n for n, value in pairs if value is not None and value != found[n])
        found |= dict.fromkeys([*twice], "(said twice)")
    return found


# Made once: `json.loads` makes a decoder at every call with options.
_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
# Not `strict`: control codes in a string do not invalidate an answer either.
_LENIENT = json.JSONDecoder(
    strict=False,
    parse_constant=str,
    parse_float=_finite_or_text,
    parse_int=_int_or_text,
    object_pairs_hook=_once,
)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {whole(key): _whole(each) for key, each in value.items()}
    return value
