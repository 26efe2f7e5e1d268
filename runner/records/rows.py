"""What the three readers share: ids, undecodable text, and the sentences about them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.types import Record


def make_record(
    position: int, line: int, fields: Mapping[str, Any], id_column: str, problem: str | None = None
) -> Record:
    """A record whose id is its own, or its line where it has none (then with a problem)."""
    raw = fields.get(id_column)
    record_id = "" if raw is None else str(raw).strip()
    if not record_id:
        record_id = f"line-{line}"
        problem = problem or f"line {line}: the id column `{id_column}` is empty; give it an id"
    for name, value in fields.items():
        if isinstance(value, str) and not value.isascii():
            byte = _undecodable(value)
            if byte is not None:
                problem = problem or (
                    f"line {line}: byte 0x{byte:02x} in column `{name}` is not UTF-8; "
                    "save the export as UTF-8"
                )
                record_id = legible(record_id)
    return Record(position, record_id, fields, line, problem)


def _undecodable(text: str) -> int | None:
    return next((ord(c) - 0xDC00 for c in text if 0xDC80 <= ord(c) <= 0xDCFF), None)


def legible(text: str) -> str:
    """The text with undecodable bytes as the replacement character, safe to write anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_header(path: Path, columns: list[str], id_column: str) -> None:
    """Raises `InputError` where the columns cannot name records."""
    doubled = sorted({c for c in columns if columns.count(c) > 1})
    if doubled:
        raise InputError(
            f"{path}, line 1: the column `{doubled[0]}` is there twice; rename one of them"
        )
    if id_column not in columns:
        near = difflib.get_close_matches(id_column, columns, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"its columns are: {', '.join(columns)}"
        raise InputError(f"{path} has no column `{id_column}` (records.id); {hint}")
