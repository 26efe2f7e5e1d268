"""Shared by the readers: ids, undecodable text, and messages about them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.formats.near_names import likely, listed
from runner.formats.nulls import Unusable
from runner.types import Record

# Undecodable bytes (as the readers mark them), and lone surrogates from a text cut in two.
_UNWRITABLE = re.compile(r"[\ud800-\udfff]")
_EXACT = 2**53
_KINDS: dict[type, str] = {bool: "a boolean", dict: "an object", list: "a list"}


def make_record(
    position: int, line: int, fields: Mapping[str, Any], id_column: str, problem: str | None = None
) -> Record:
    """A record with its id, or with its line as id if it has none (then with a problem)."""
    raw = fields.get(id_column)
    if isinstance(raw, Unusable):
        problem = problem or f"line {line}: the id is {raw.why}; give it a text or a whole number"
        raw = None
    record_id = "" if raw is None else _id(raw).strip()
    if isinstance(raw, float) and abs(raw) > _EXACT and problem is None:
        problem = (
            f"line {line}: the id {raw} is a floating-point number too large to be exact; export "
            "ids as text or as whole numbers"
        )
    if isinstance(raw, (bool, dict, list)) and problem is None:
        problem = f"line {line}: the id is {_KINDS[type(raw)]}; give it a text or a whole number"
    if not record_id:
        record_id = f"line-{line}"
        problem = problem or f"line {line}: the id column `{id_column}` is empty; give it an id"
    for name, value in fields.items():
        if name.isascii() and (value.__class__ is str and value.isascii()):
            continue  # the common case
        trouble = unwritable(name) or unwritable(value)
        if trouble is not None:
            problem = problem or f"line {line}: {trouble} (column `{_legible(name)}`)"
    return Record(position, _legible(record_id), fields, line, problem)


def _id(raw: Any) -> str:
    """The id as text; a table with missing values stores whole numbers as 1001.0."""
    if isinstance(raw, float):
        return "" if math.isnan(raw) else str(int(raw)) if raw.is_integer() else str(raw)
    return str(raw)


def native(value: Any) -> Any:
    """A table's value as a Python value: NaN, a table's null, becomes None; bytes become text;
    pandas' times, used if pandas is installed, become Python's."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return None if math.isnan(value) else value
    if kind is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return Unusable("bytes that are not text")
    if kind is list or kind is tuple:
        return kind(map(native, value))
    if kind is dict:
        return {name: native(each) for name, each in value.items()}
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime(warn=False)
    return value.to_pytimedelta() if hasattr(value, "to_pytimedelta") else value


def unwritable(value: Any) -> str | None:
    """Why a value cannot be written as UTF-8, with the fix; None if it can."""
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str) or value.isascii():
        return None
    found = _UNWRITABLE.search(value)
    if found is None:
        return None
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"byte 0x{code - 0xDC00:02x} is not UTF-8; save the export as UTF-8"
    return f"\\u{code:04x} is half a character, from a text cut in two; fix the export"


def _legible(text: str) -> str:
    return text if text.isascii() else _UNWRITABLE.sub("�", text)


def check_header(path: Path | str, columns: list[str], id_column: str, line: int = 1) -> None:
    """Raises `InputError` if the columns are not valid or lack the id column."""
    doubled = sorted(name for name, times in Counter(columns).items() if times > 1)
    if "" in doubled:
        raise InputError(f"{path}, line {line}: two columns have no name; give each one")
    if doubled:
        raise InputError(
            f"{path}, line {line}: the column `{doubled[0]}` occurs twice; rename one of them"
        )
    if id_column not in columns:
        hint = likely(id_column, columns)
        hint = f"did you mean `{hint}`?" if hint else f"its columns are: {listed(columns)}"
        if not any(columns):
            raise InputError(f"{path} has no named columns")
        if len(columns) == 1 and (other := re.search(r"[;\t|,]", columns[0])):
            hint = f"its header is split by {other[0]!r}: set records.delimiter"
        raise InputError(f"{path} has no column `{id_column}` (records.id); {hint}")
