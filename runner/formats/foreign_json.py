"""JSON that somebody else wrote (a reply, a results file, an answer), parsed once and strictly.

Whatever passes here can be walked, encoded as UTF-8, and stored: no nesting that overflows a stack,
no NaN or infinity, no half of a surrogate pair, and no count that is not one.
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
    """Not JSON that can be worked with; one clause says why."""


def parse(
    content: bytes | str,
    *,
    most_bytes: int = MOST_BYTES,
    most_depth: int = MOST_DEPTH,
    odd_numbers: bool = False,
) -> Any:
    """The value of a JSON text, UTF-8 with or without a BOM.

    Half surrogates in strings become U+FFFD, as no file or database can hold them. With
    ``odd_numbers``, what is no finite number, or none of a bearable length, comes as its text, and
    so does what an object says twice and differently: one bad count does not cost all that stands
    beside it, and nobody takes the lower of two bills.

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
    """Whether the text's brackets nest so deep, those within its strings left out."""
    if text.count("[") + text.count("{") <= most:
        return False  # most texts end here
    now = 0
    for bracket in _NO_BRACKET.sub("", _STRING.sub("", text)):
        now += 1 if bracket in "[{" else -1
        if now > most:
            return True
    return False


def whole(text: str) -> str:
    """The text with U+FFFD in place of each half of a surrogate pair."""
    return _HALF.sub("\ufffd", text)


def count(value: object, most: int = MOST_COUNT) -> int:
    """A count of something: a whole number from 0 to ``most``; null and absent are the caller's.

    Raises:
        Unreadable: anything else, `True` and 3.0 included.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Unreadable(f"{clipped(value)} is no count from 0 to {most:,}")
    return value


def clipped(value: object, most: int = 80) -> str:
    """The value as a sentence may show it: one line, bounded, no control codes."""
    try:
        text = ascii(value[:most] if isinstance(value, (str, bytes)) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(value: object, most: int = 500) -> str:
    """Somebody else's words as a sentence may hold them: one line, bounded, no control codes."""
    text = value if isinstance(value, str) else "" if value is None else clipped(value, most)
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else f"{shown[:most]}…"


def _refuse(constant: str) -> NoReturn:
    raise Unreadable(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Unreadable(f"{digits[:20]} is no finite number")
    return number


def _finite_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _int_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= MOST_DIGITS else digits


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # a null before says nothing
        twice = (n for n, value in pairs if value is not None and value != found[n])
        found |= dict.fromkeys([*twice], "(said twice)")
    return found


# Made once: `json.loads` makes one at every call that has a setting.
_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
# Not `strict`, which is about control codes within a text: they cost no answer either.
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
