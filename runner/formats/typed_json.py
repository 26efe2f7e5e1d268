"""Writes a record's fields as JSON text and reads them back unchanged, so that a waiting record is
sent later exactly as it would have been at once.

A value without a JSON form becomes an object with one key, `TAG`: [its type, its written form].
Plain values are plain JSON.
"""

from __future__ import annotations

import base64
import datetime
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from runner.formats.json_text import compact, read_compact
from runner.formats.nulls import Unusable

TAG = "(type)"
_PLAIN = frozenset({str, int, float, bool, type(None)})


def written(fields: Mapping[str, Any]) -> str:
    """The JSON text of the fields."""
    plain = all(type(value) in _PLAIN for value in fields.values())
    return compact(dict(fields) if plain and TAG not in fields else _out(dict(fields)))


def read(text: str) -> Any:
    """The inverse of `written`."""
    value = read_compact(text)
    return _in(value) if TAG in text else value


def _out(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        if TAG not in value and all(type(name) is str for name in value):
            return {name: _out(each) for name, each in value.items()}
        return {TAG: ["dict", [[_out(name), _out(each)] for name, each in value.items()]]}
    if type(value) is list:
        return [_out(each) for each in value]
    for kind, (name, write, _) in _KINDS.items():
        if isinstance(value, kind):
            return {TAG: [name, write(value)]}
    return str(value)


def _in(value: Any) -> Any:
    if isinstance(value, list):
        return [_in(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TAG} and isinstance(value[TAG], list) and len(value[TAG]) == 2:
        name, how = value[TAG]
        if name == "dict":
            return {_in(key): _in(each) for key, each in how}
        return _READ[name](how)
    return {name: _in(each) for name, each in value.items()}


def _moment(value: datetime.datetime | datetime.time) -> list[Any]:
    """The time with its zone's name, if any, and its ``fold``."""
    zone = getattr(value.tzinfo, "key", None) or getattr(value.tzinfo, "zone", None)
    bare = value.replace(tzinfo=None) if zone is not None else value
    return [bare.isoformat(), zone, value.fold]


def _at(how: list[Any]) -> datetime.datetime:
    text, zone, fold = how
    value = datetime.datetime.fromisoformat(text).replace(fold=fold)
    return value if zone is None else value.replace(tzinfo=ZoneInfo(zone))


def _o_clock(how: list[Any]) -> datetime.time:
    return datetime.time.fromisoformat(how[0]).replace(fold=how[2])


def _lasting(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _each(values: Any) -> list[Any]:
    return [_out(each) for each in values]


# The order matters: a datetime is also a date.
_KINDS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime.datetime: ("datetime", _moment, _at),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", _moment, _o_clock),
    datetime.timedelta: ("timedelta", _lasting, lambda how: datetime.timedelta(*how)),
    Decimal: ("decimal", str, Decimal),
    bytes: ("bytes", lambda b: base64.b64encode(b).decode(), base64.b64decode),
    uuid.UUID: ("uuid", str, uuid.UUID),
    tuple: ("tuple", _each, lambda how: tuple(_in(how))),
    set: ("set", _each, lambda how: set(_in(how))),
    frozenset: ("frozenset", _each, lambda how: frozenset(_in(how))),
    Unusable: ("unusable", lambda value: value.why, Unusable),
}
_READ = {name: read for name, _, read in _KINDS.values()}
