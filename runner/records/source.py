"""A job's records, from a file or from a database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from runner.formats.database import Database
from runner.formats.typed_cells import with_types
from runner.job import Job, digest
from runner.records import column_names, count_records, file_format, read_records
from runner.records.database import query_columns, query_records
from runner.records.parquet_file import parquet_texts
from runner.templates.column_kinds import OF_TYPE, Kind
from runner.types import Record, Say, unheard


def job_records(job: Job, limit: int | None = None, say: Say = unheard) -> Iterator[Record]:
    """Yields the records, at most ``limit``, and closes the source after the last. ``say`` is
    called about anything that was skipped or read differently than written.

    Raises:
        UsageError: the source as a whole cannot be read.
    """
    source = job.records
    if source.query is not None:
        rows = query_records(_database(job), source.query, source.id)
    else:
        rows = read_records(job.records_path(), source.id, say=say, **_how(job))
    with closing(rows):  # type: ignore[type-var]
        first = islice(rows, limit)
        yield from (with_types(row, source.types) for row in first) if source.types else first


def job_columns(job: Job) -> list[str] | None:
    """The columns that all records share, or None if they may differ."""
    if job.records.query is not None:
        return query_columns(_database(job), job.records.query)
    return column_names(job.records_path(), job.records.id, **_how(job))


def job_kinds(job: Job) -> dict[str, Kind]:
    """What is known about the columns' values without reading records."""
    source = job.records
    known: dict[str, Kind] = {}
    if source.query is None:
        fmt = file_format(job.records_path(), source.format)
        if fmt == "csv":
            known = dict.fromkeys(job_columns(job) or (), "cell")
        elif fmt == "parquet":
            known = dict.fromkeys(parquet_texts(job.records_path()), "text")
    return known | {name: OF_TYPE[given] for name, given in source.types.items()}


def job_count(job: Job) -> int | None:
    """The number of records if it can be found quickly; None for a query, which would run twice."""
    if job.records.query is not None:
        return None
    return count_records(job.records_path(), job.records.id, **_how(job))


def job_digest(job: Job) -> str | None:
    """SHA-256 of the records' file or of the query's rows; None if there is no file."""
    if job.records.query is None:
        return file_digest(job.records_path()) if job.records_path().is_file() else None
    seen = hashlib.sha256()
    for record in job_records(job):
        seen.update(digest([record.id, dict(record.given)]).encode())
    return seen.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _database(job: Job) -> Database:
    assert job.records.url is not None
    return Database(job.records.url, job.folder, "records.url")


def _how(job: Job) -> dict[str, Any]:
    return {"fmt": job.records.format, "delimiter": job.records.delimiter}
