"""Bounds on the size of a template's values, before and after operators, filters and methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

STEP = 40
MOST_BITS = 1 << 14  # more digits than Python converts to text
_ODD = 400  # slightly more than the digits of the largest float
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\d+|\*)?(?:\.(\d+|\*))?")
_BRACES = re.compile(r":([^{}]*)")
_NESTED = re.compile(r"\{[^{}]*:[^{}]*\{")
_QUICK_CODECS = {"utf-8", "utf8", "ascii", "latin-1"}


class TooMuch(Exception):
    """A template was stopped; the message is a clause that says why."""


def size(value: Any, most: int = 1 << 60) -> int:
    """The approximate number of characters of the value as text; shared parts count each time.

    Raises:
        TooMuch: it is over ``most``.
    """
    if type(value) is str:
        return len(value)
    total, left = 0, [value]
    while left:
        one = left.pop()
        if isinstance(one, (str, bytes)):
            total += len(one)
        elif isinstance(one, int):
            total += one.bit_length() // 3
        elif isinstance(one, Mapping):
            total += STEP * len(one)
            left += (*one.keys(), *one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            total += STEP * len(one)
            left += one
        else:
            total += STEP
        if total > most:
            raise TooMuch("it makes a value that is too large")
    return total


def filled(text: str | bytes, given: Any, *, braces: bool = False) -> int:
    """An upper bound on the length of a format string's result."""
    form = text.decode("latin-1") if isinstance(text, bytes) else text
    if braces:
        if _NESTED.search(form):
            raise TooMuch("it takes a width from a field; write the width as a number")
        places, found = form.count("{"), _BRACES.findall(form)
        widths = [_number(digits) for spec in found for digits in re.findall(r"\d+", spec)]
    else:
        places, found = form.count("%"), _PERCENT.findall(form)
        numbers = [number for pair in found for number in pair if number]
        widths = [_number(number) for number in numbers if number != "*"]
        if "*" in numbers:
            of = given if isinstance(given, tuple) else (given,)
            widths += [sum(abs(each) for each in of if isinstance(each, int))]
    return len(form) + sum(widths) + places * (size(given) + _ODD)


def _number(given: Any) -> int:
    if isinstance(given, str):
        return int(given[:12]) if given.isdecimal() else 0
    return max(0, given) if isinstance(given, int) else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _replaced(value: Any, old: Any, new: Any, count: Any = None) -> int:
    if not isinstance(value, (str, bytes)):
        return size(value) * size(new)
    return len(value) + value.count(old if isinstance(old, type(value)) else str(old)) * size(new)  # type: ignore[arg-type]


def _joined(value: Any, between: Any = "", attribute: Any = None) -> int:
    return size(between) * len(value) if hasattr(value, "__len__") else 0


def _indented(value: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    wide = len(width) if isinstance(width, str) else _number(width)
    return wide * (_text(value).count("\n") + 1)


def _wrapped(
    value: Any, width: Any = 79, break_long_words: Any = True, wrapstring: Any = None, **_: Any
) -> int:
    lines = len(_text(value)) // max(1, _number(width)) + _text(value).count("\n") + 1
    return lines * (size(wrapstring or "\n") + STEP) + 10 * len(_text(value))


def _rounded(value: Any, precision: Any = 0, *_: Any, **__: Any) -> int:
    if _number(precision) > _ODD:
        raise TooMuch("it rounds to thousands of digits")
    return 0


def _without_tags(value: Any) -> int:
    return _text(value).count("<") * len(_text(value)) // 2000


def _linked(value: Any, *more: Any, **named: Any) -> int:
    return len(_text(value)) * (10 + size((more, tuple(named.values()))) // 10)


def _summed(value: Any, attribute: Any = None, start: Any = 0) -> int:
    if isinstance(start, (int, float)) or not hasattr(value, "__len__"):
        return 0
    return len(value) * size(value)


def _indented_json(value: Any, indent: Any = None) -> int:
    return size(value) * _number(indent)


def _encoded(value: Any, codec: str = "utf-8", *_: Any, **__: Any) -> int:
    return 0 if str(codec).lower() in _QUICK_CODECS else len(value) ** 2 // 100


def _translated(value: Any, table: Any = None, *_: Any) -> int:
    made = table.values() if isinstance(table, Mapping) else ()
    return len(value) * max((size(each) for each in made), default=1)


def _padded(value: Any, width: Any = 80, *_: Any) -> int:
    return _number(width)


BY_FILTER: Mapping[str, Callable[..., int]] = {
    "batch": lambda value, linecount, fill_with=None: STEP * _number(linecount),
    "center": _padded,
    "format": lambda value, *args, **kwargs: filled(str(value), kwargs or args),
    "indent": _indented,
    "join": _joined,
    "pprint": lambda value: 20 * size(value),
    "replace": lambda value, old, new, count=None: _replaced(value, old, new),
    "round": _rounded,
    "slice": lambda value, slices, fill_with=None: STEP * _number(slices),
    "striptags": _without_tags,
    "sum": _summed,
    "title": lambda value: 3 * size(value),
    "tojson": _indented_json,
    "urlize": _linked,
    "wordwrap": _wrapped,
}
BY_METHOD: Mapping[str, Callable[..., int]] = {
    "center": _padded,
    "encode": _encoded,
    "expandtabs": lambda value, tabsize=8: value.count("\t") * _number(tabsize),
    "join": lambda value, parts: len(value) * len(parts),
    "ljust": _padded,
    "replace": _replaced,
    "rjust": _padded,
    "striptags": _without_tags,
    "to_bytes": lambda value, length=1, *_, **__: _number(length),
    "translate": _translated,
    "zfill": _padded,
}
