"""Reads JSONL: one JSON object per line."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.formats.near_names import likely
from runner.records.rows import make_record
from runner.types import Record

_ONE_A_LINE = (
    '{unpack}python -c "import json, sys; [print(json.dumps(row)) for row in '
    "json.loads(sys.stdin.buffer.read().decode('utf-8-sig'))]\"{given} > {made}"
)

_CONSTANTS = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
"""Constants that are not JSON but occur: pandas' null, among others."""


def jsonl_records(path: Path, file: Iterable[str], id_column: str) -> Iterator[Record]:
    """One `Record` per non-empty line; values keep their JSON types.

    Raises:
        InputError: the file is one JSON array, or an object spans several lines.
    """
    filled = ((line, text) for line, text in enumerate(file, start=1) if text.strip())
    first = list(islice(filled, 2))
    _check_one_a_line(path, [text.strip() for _, text in first], id_column)
    for position, (line, text) in enumerate(chain(first, filled)):
        value, problem = _value(line, text.rstrip())
        if problem is None and id_column not in value:
            near = likely(id_column, list(value))
            hint = f"; did you mean `{near}`?" if near else ""
            problem = f"line {line}: the object has no `{id_column}` (records.id){hint}"
        yield make_record(position, line, value, id_column, problem)


def _value(line: int, text: str) -> tuple[dict[str, Any], str | None]:
    """A line's object; or an empty one, and the problem."""
    try:
        value = json.loads(text, parse_constant=_CONSTANTS.get)
    except (ValueError, RecursionError) as error:
        return {}, f"line {line}: not JSON ({_why(error)})"
    if not isinstance(value, dict):
        return {}, f"line {line}: not a JSON object"
    return value, None


def _check_one_a_line(path: Path, first: list[str], id_column: str) -> None:
    """Checks the first non-empty lines. Raises InputError if they are not JSONL."""
    if first and id_column in (cell.strip(' "') for cell in re.split(r"[,;\t|]", first[0])):
        raise InputError(f"{path} is a CSV file; name it .csv, or set `records.format: csv`")
    if first and first[0].startswith("["):
        command = _one_a_line(path)
        raise InputError(
            f"{path} is a JSON array, not one object per line; `{command}` converts it"
        )
    if first[:1] == ["{"] and first[1:] and first[1].startswith('"'):
        raise InputError(
            f"{path} has an object over several lines; put each on one line, as `jq -c .` does"
        )


def _one_a_line(path: Path) -> str:
    """The command that converts the file; it never overwrites its input."""
    quoted, packed = shlex.quote(str(path)), path.suffix == ".gz"
    made = path.with_suffix("") if packed else path
    return _ONE_A_LINE.format(
        unpack=f"gunzip -c {quoted} | " if packed else "",
        given="" if packed else f" < {quoted}",
        made=shlex.quote(str(made.with_name(f"{made.stem}-lines.jsonl"))),
    )


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        comma = error.msg == "Extra data" and error.doc[error.pos :].strip() == ","
        fix = "; remove the comma at its end" if comma else ""
        return f"{error.msg} at character {error.pos + 1}{fix}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number is too long"
