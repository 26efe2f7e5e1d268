"""Reads Parquet with pyarrow, one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.formats.nulls import Unusable
from runner.records.rows import check_header, make_record, native
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


def parquet_texts(path: Path) -> list[str]:
    """The columns that hold text."""
    import pyarrow as pa

    with _open(path) as file:
        schema = file.schema_arrow
        return [
            f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
        ]


def parquet_records(path: Path, id_column: str) -> Iterator[Record]:
    """One `Record` per row; ``line`` is the row's number from 1."""
    with _open(path) as file:
        check_header(path, list(file.schema_arrow.names), id_column)
        position = 0
        for rows in _batches(path, file):
            for fields in rows:
                yield make_record(position, position + 1, fields, id_column)
                position += 1


def _batches(path: Path, file: Any) -> Iterator[list[dict[str, Any]]]:
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = [list(map(native, _cells(column))) for column in batch.columns]
            names = batch.schema.names
            yield [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    except ValueError as error:  # pyarrow's errors are ValueErrors
        why = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read: {why}") from None


def _cells(column: Any) -> list[Any]:
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except (ValueError, OverflowError):  # a value that Python cannot represent
        return [_cell(value) for value in column]


def _cell(value: Any) -> Any:
    """The value, or `Unusable` if Python cannot represent it (such as a year after 9999)."""
    import pyarrow as pa

    try:
        return value.as_py()
    except (ValueError, OverflowError):
        pass
    try:
        if pa.types.is_timestamp(value.type):
            return value.cast(pa.timestamp("us", value.type.tz), safe=False).as_py()
        if pa.types.is_duration(value.type):
            return value.cast(pa.duration("us"), safe=False).as_py()
    except (ValueError, OverflowError):
        pass
    return Unusable(f"a {value.type} that Python cannot represent")


def parquet_count(path: Path) -> int:
    with _open(path) as file:
        return int(file.metadata.num_rows)
