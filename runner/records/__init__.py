"""Reads records lazily from CSV, JSONL, Parquet and OpenAI batch files (all but Parquet also
gzipped) and from databases. `runner.records.source` selects a job's source.

`read_records` never holds more than one record (Parquet: one batch of a row group) and never stops
at a bad one: a record that cannot be read is returned with its ``problem`` and its position.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runner.errors import InputError
from runner.formats.openai_request import NAMES
from runner.records.csv_file import csv_header, csv_records
from runner.records.jsonl_file import jsonl_records
from runner.records.openai_batch import batch_records
from runner.records.parquet_file import parquet_columns, parquet_count, parquet_records
from runner.records.text_file import open_text
from runner.types import Record, Say, unheard

__all__ = [
    "column_names",
    "count_records",
    "file_format",
    "likely_delimiter",
    "read_records",
]

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = (",", ";", "\t", "|")
_SAVE_AS = "in a spreadsheet, save it as CSV UTF-8"
_OTHER_ENDINGS = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers"), _SAVE_AS),
    ".json": "convert the JSON array to one object per line: .jsonl",
    ".zip": "unpack it first",
}


def file_format(path: Path, given: str = "auto") -> str:
    """``csv``, ``jsonl`` or ``parquet``, by the file's suffix unless it is given."""
    if given != "auto":
        return given
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        return _ENDINGS[ending.lower()]
    except KeyError:
        fix = _OTHER_ENDINGS.get(
            ending.lower(), "name it as .csv, .jsonl or .parquet, or set the format in the job"
        )
        raise InputError(
            f"{path}: cannot tell the format from the ending {ending!r}; {fix}"
        ) from None


def read_records(
    path: Path,
    id_column: str,
    *,
    fmt: str = "auto",
    delimiter: str = ",",
    say: Say = unheard,
) -> Iterator[Record]:
    """Yields every record of the file in order; ``say`` is called about anything that was skipped
    or read differently than written.

    Raises:
        InputError: the file as a whole cannot be read: missing, empty, without the id column,
            UTF-16.
    """
    kind = file_format(path, fmt)
    with _input_errors(path):
        if kind == "parquet":
            yield from parquet_records(path, id_column)
            return
        with open_text(path) as file:
            if kind == "jsonl":
                yield from jsonl_records(path, file, id_column)
            elif kind == "openai_batch":
                yield from batch_records(path, file)
            else:
                yield from csv_records(path, file, id_column, _delimiter(path, delimiter), say)


def column_names(
    path: Path, id_column: str | None = None, *, fmt: str = "auto", delimiter: str = ","
) -> list[str] | None:
    """The columns that all records share, or ``None`` for JSONL, where they may differ.

    ``id_column``: a column known to exist, if any; it distinguishes a CSV file's header from a
    report's lines above it.
    """
    kind = file_format(path, fmt)
    with _input_errors(path):
        if kind == "parquet":
            return parquet_columns(path)
        if kind == "openai_batch":
            open_text(path).close()
            return list(NAMES)
        if kind == "jsonl":
            return None
        with open_text(path) as file:
            return csv_header(path, file, _delimiter(path, delimiter), id_column).names


def likely_delimiter(path: Path, id_column: str | None = None) -> str:
    """The likely delimiter of a CSV file: the one that gives the most columns and, if given, the
    ``id_column``; a comma for other files."""
    if file_format(path) != "csv":
        return ","
    found: dict[str, int] = {}
    for delimiter in _DELIMITERS:
        with suppress(InputError):  # quoting that does not fit this delimiter
            found[delimiter] = len(column_names(path, id_column, delimiter=delimiter) or ())
    return max(found, key=lambda delimiter: found[delimiter], default=",")


def _delimiter(path: Path, given: str) -> str:
    return "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else given


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise InputError(f"{path} is truncated within its compressed data") from None
    except gzip.BadGzipFile:
        raise InputError(f"{path} is not gzipped; remove .gz from its name") from None
    except (OSError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the records file {path}: {why}") from None


COUNTED_BYTES = 4 << 20


def count_records(
    path: Path, id_column: str, *, fmt: str = "auto", delimiter: str = ","
) -> int | None:
    """The number of records, for a progress bar, if it can be found quickly.

    It is exact for Parquet and for files up to `COUNTED_BYTES`; in larger files, each line counts,
    also within a value. ``None`` for large compressed files.
    """
    kind = file_format(path, fmt)
    with _input_errors(path):
        if kind == "parquet":
            return parquet_count(path)
        if path.stat().st_size <= COUNTED_BYTES:
            return sum(1 for _ in read_records(path, id_column, fmt=fmt, delimiter=delimiter))
        if path.suffix == ".gz":
            return None
        with path.open("rb") as file:
            newlines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    return newlines - (kind == "csv")
