"""JSONL: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from runner.records.rows import make_record
from runner.types import Record


def jsonl_records(file: Iterable[str], id_column: str) -> Iterator[Record]:
    """One `Record` per non-empty line; values keep their JSON types."""
    position = 0
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        problem = None
        try:
            value = json.loads(text.rstrip())
        except (ValueError, RecursionError) as error:
            value, problem = {}, f"line {line}: not JSON ({_why(error)})"
        else:
            if not isinstance(value, dict):
                value, problem = {}, f"line {line}: not a JSON object"
            elif id_column not in value:
                problem = f"line {line}: the object has no `{id_column}` (records.id)"
        yield make_record(position, line, value, id_column, problem)
        position += 1


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number is too long"
