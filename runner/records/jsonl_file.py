"""JSONL: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.errors import InputError
from runner.records.rows import make_record
from runner.types import Record


def jsonl_records(path: Path, file: Iterable[str], id_column: str) -> Iterator[Record]:
    """One `Record` per non-empty line; values keep their JSON types."""
    position = 0
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        problem = None
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
            value, problem = {}, f"line {line}: not JSON ({why})"
        else:
            if not isinstance(value, dict):
                value, problem = {}, f"line {line}: not a JSON object"
            elif id_column not in value:
                problem = f"line {line}: the object has no `{id_column}` (records.id)"
        yield make_record(position, line, value, id_column, problem)
        position += 1
    if position == 0:
        raise InputError(f"{path} is empty: it holds no record")
