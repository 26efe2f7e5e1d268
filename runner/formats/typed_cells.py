"""``records.types``: converts cells' texts to typed values, strictly, when records are read.

An empty cell is null. A record's identity remains that of the unconverted cells (`Record.raw`).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal

from runner.types import Record

CellType = Literal["text", "bool", "int", "float", "decimal", "date", "datetime"]
TRUE = frozenset({
    "true", "t", "yes", "y", "on", "1", "wahr", "ja", "vrai", "oui", "verdadero", "sí", "si",
    "vero", "verdadeiro", "sim",
})  # fmt: skip
FALSE = frozenset({
    "false", "f", "no", "n", "off", "0", "falsch", "nein", "faux", "non", "falso", "não", "nao",
})  # fmt: skip
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}(?:\.0+)?")
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?"
)
_COMMA = re.compile(r"[+-]?[0-9]{1,3}(?:\.?[0-9]{3}){0,20},[0-9]{1,2}")
_FORMS: dict[str, str] = {
    "text": "text",
    "bool": "true or false, yes or no, 1 or 0",
    "int": "digits alone, such as -1234",
    "float": "a number such as 1234.5",
    "decimal": "a number such as 1234.50",
    "date": "a date such as 2026-01-31",
    "datetime": "a time such as 2026-01-31T12:30:00Z",
}


def with_types(record: Record, types: Mapping[str, CellType]) -> Record:
    """The record with its values converted to the job's types; a value that does not have its type
    is a problem of that record."""
    if record.problem is not None:
        return record
    fields, problem = dict(record.fields), None
    for name, kind in types.items():
        if name not in fields:
            continue
        try:
            fields[name] = typed(fields[name], kind)
        except ValueError:
            problem = problem or (
                f"line {record.line}: the column `{name}` holds {_short(fields[name])}, but "
                f"`records.types` says {kind}: {_FORMS[kind]}; {_fix(name, fields[name], kind)}"
            )
    return replace(record, fields=fields, raw=record.given, problem=problem)


def comma_decimal(column: str) -> str:
    """The expression with which a rule reads a text column of numbers such as 1.234,50."""
    plain = column if column.isidentifier() else f"record[{column!r}]"
    return f"`{plain} | replace('.', '') | replace(',', '.') | float`"


def _fix(column: str, value: Any, kind: CellType) -> str:
    if kind in ("int", "float", "decimal") and _COMMA.fullmatch(str(value).strip()):
        return (
            "it has a decimal comma: remove the column from `records.types`, and use "
            f"{comma_decimal(column)} in rules that compare it"
        )
    return "fix the cell or the type"


def typed(value: Any, kind: CellType) -> Any:
    """Converts a value. Raises `ValueError` if it is not of this kind."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        return _OF_VALUE[kind](value)
    if kind == "text":
        return value
    text = value.strip()
    return _OF_TEXT[kind](text) if text else None


def _bool(text: str) -> bool:
    word = text.casefold()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError


def _int(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError
    return int(text.partition(".")[0])


def _float(text: str) -> float:
    value = float(_decimal(text))
    if not math.isfinite(value):
        raise ValueError
    return value


def _decimal(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return Decimal(text)


def _date(text: str) -> datetime.date:
    if len(text) != len("2026-01-31"):
        raise ValueError
    return datetime.date.fromisoformat(text)


_OF_TEXT: dict[str, Callable[[str], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "decimal": _decimal,
    "date": _date,
    "datetime": datetime.datetime.fromisoformat,
}


def _same(kind: type) -> Callable[[Any], Any]:
    def same(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return same


def _bool_of(value: Any) -> bool:
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise ValueError


def _number(value: Any, make: Callable[[Any], Any]) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError
    made = make(value)
    if isinstance(made, int) and made != value:
        raise ValueError
    return made


def _date_of(value: Any) -> datetime.date:
    if isinstance(value, datetime.datetime):
        if value.time() != datetime.time():
            raise ValueError
        return value.date()
    return _same(datetime.date)(value)  # type: ignore[no-any-return]


_OF_VALUE: dict[str, Callable[[Any], Any]] = {
    "text": str,
    "bool": _bool_of,
    "int": lambda value: _number(value, int),
    "float": lambda value: _number(value, float),
    "decimal": lambda value: _number(value, lambda one: Decimal(str(one))),
    "date": _date_of,
    "datetime": _same(datetime.datetime),
}


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
