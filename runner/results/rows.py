"""Result rows, and files of them: JSONL, CSV or Parquet."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from runner import private
from runner.errors import RunFailed
from runner.formats.formula_cells import guarded, row_writer
from runner.formats.json_text import json_encoder
from runner.records import file_format
from runner.types import Outcome

COLUMNS = (
    "id",
    "status",
    "value",
    "decided_by",
    "reason",
    "confidence",
    "field_confidence",
    "model",
    "cost_usd",
    "error",
)
# Finer digits would differ with what else was in the batch, on machines of many threads.
CONFIDENCE_DIGITS = 4
ROWS_AT_ONCE = 4096

Seal = Callable[[Path], object]


def unsealed(whole: Path) -> None:
    """Nobody keeps what it was."""


def row(outcome: Outcome) -> dict[str, Any]:
    """The contract's row; confidences rounded to `CONFIDENCE_DIGITS`."""
    confidence = outcome.confidence
    return {
        "id": outcome.record_id,
        "status": str(outcome.status),
        "value": outcome.value,
        "decided_by": outcome.decided_by and str(outcome.decided_by),
        "reason": outcome.shown_reason,
        "confidence": None if confidence is None else round(confidence, CONFIDENCE_DIGITS),
        "field_confidence": {
            k: round(v, CONFIDENCE_DIGITS) for k, v in outcome.field_confidence.items()
        },
        "model": outcome.model,
        "cost_usd": float(outcome.cost_usd),
        "error": outcome.error,
    }


def write_results(
    outcomes: Iterable[Outcome],
    path: Path,
    fmt: str = "auto",
    *,
    raw: bool = False,
    seal: Seal = unsealed,
) -> int:
    """Writes all rows, whole or not at all; returns their number. ``raw``: CSV without the guard
    against formulas. ``seal`` sees the whole file before it takes its place.

    Raises:
        RunFailed: the file cannot be written; nothing of the run is lost by it.
        InputError: the ending says no format.
    """
    return write_rows(map(row, outcomes), path, file_format(path, fmt), raw=raw, seal=seal)


def write_rows(
    rows: Iterator[dict[str, Any]],
    path: Path,
    kind: str,
    *,
    raw: bool = False,
    seal: Seal = unsealed,
) -> int:
    """The same for rows as they are: JSONL takes any, the others those of the contract."""
    write = _WRITERS[kind]
    rows = map(_guarded, rows) if kind == "csv" and not raw else rows
    try:
        private.folder(path.parent)
        with _whole(path, seal) as target:
            return write(rows, target)
    except OSError as error:
        raise RunFailed(
            f"cannot write the results to {path}: {error.strerror or error}; the run itself is "
            "safe: write them again elsewhere with `surelocal export RUN_DIR -o FILE`"
        ) from None


@contextmanager
def _whole(path: Path, seal: Seal) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place at the end; devices are written to."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield private.made(temporary)
        seal(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _jsonl(rows: Iterator[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, one in enumerate(rows, start=1):  # noqa: B007
            file.write(_dumps(one) + "\n")
    return count


def _flat(one: dict[str, Any]) -> dict[str, Any]:
    """Objects as JSON text, plain values as they are: for formats of plain cells."""
    value = one["value"]
    plain = value if value is None or isinstance(value, str) else _dumps(value)
    return one | {"value": plain, "field_confidence": _dumps(one["field_confidence"])}


def _guarded(one: dict[str, Any]) -> dict[str, Any]:
    """Guards text cells so that a spreadsheet reads none of them as a formula."""
    return {name: guarded(cell) if isinstance(cell, str) else cell for name, cell in one.items()}


_dumps = json_encoder((", ", ": "))


def _csv(rows: Iterator[dict[str, Any]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        write = row_writer(file)
        write(COLUMNS)
        for count, one in enumerate(rows, start=1):  # noqa: B007
            cells = _flat(one)
            write(cells[name] for name in COLUMNS)
    return count


def _parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"confidence", "cost_usd"}
    schema = pa.schema([(n, pa.float64() if n in numbers else pa.string()) for n in COLUMNS])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        while part := [_flat(one) for one in islice(rows, ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    return count


_WRITERS: dict[str, Callable[[Iterator[dict[str, Any]], Path], int]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
