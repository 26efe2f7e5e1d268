"""Parquet by pyarrow, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.records.rows import check_header, make_record
from runner.types import Record

BATCH_ROWS = 1024


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from None


def parquet_columns(path: Path) -> list[str]:
    with _open(path) as file:
        return list(file.schema_arrow.names)


def parquet_records(path: Path, id_column: str) -> Iterator[Record]:
    """One `Record` per row; ``line`` is the row's number from 1."""
    with _open(path) as file:
        check_header(path, list(file.schema_arrow.names), id_column)
        position = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for fields in batch.to_pylist():
                yield make_record(position, position + 1, fields, id_column)
                position += 1
        if position == 0:
            raise InputError(f"{path} is empty: it holds no record")


def parquet_count(path: Path) -> int:
    with _open(path) as file:
        return int(file.metadata.num_rows)
