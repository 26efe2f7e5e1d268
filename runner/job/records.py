"""The job's ``records`` and ``output``: where records come from, and where results go.

A file of OpenAI's batch API contains the prompts and the form of the answers; a job over such a
file takes both from it.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from runner.formats.database import check_address
from runner.formats.openai_request import answer_of, in_one_order, is_batch_line
from runner.formats.typed_cells import CellType
from runner.job.confidence import Part

BATCH = "openai_batch"
REQUESTS = "requests.jsonl"
"""The records' path of a served job; the file does not exist."""
_ORDERED = re.compile(r"\border\s+by\b", re.IGNORECASE)
# Far longer than any message; a longer line does not indicate a batch file.
_LONGEST_LINE = 64 << 20
_NO_DELIMITERS = '"\r\n\ufeff'
_LOOKED_AT = 20
_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}


class Records(Part):
    """A file (``path``, relative to the job file), or the rows of a ``query`` on the database at
    ``url``, where ``${NAME}`` is the environment variable of that name."""

    path: Path | None = None
    """The file: CSV, JSONL or Parquet, each also as `.gz`; relative to the job file."""
    id: str = "id"
    """The column that identifies a record; its values must be unique."""
    format: Literal["auto", "csv", "jsonl", "parquet", "openai_batch"] = "auto"
    """`auto` goes by the file's suffix, and recognises an OpenAI batch file by its first line."""
    types: dict[str, CellType] = Field(default_factory=dict)
    """The types of columns that are read as text: `{is_eu: bool, risk: int, opened: date}`; also
    `float`, `decimal`, `datetime` and `text`. An empty cell is null; a cell that does not have its
    type is an error of its record. `bool` accepts true, yes, on, 1, wahr, ja, vrai, oui, and their
    opposites."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """The delimiter of a CSV file: one character, or the word `tab`."""
    url: str | None = None
    """A database's address in SQLAlchemy's form; write the password as `${NAME}`, never in
    clear."""
    query: str | None = None
    """The query: one SELECT with an ORDER BY."""

    @field_validator("delimiter", mode="before")
    @classmethod
    def one_character(cls, given: Any) -> Any:
        if given == r"\t":
            raise ValueError(
                r"is a backslash and a t, since YAML does not expand '\t' in single quotes; write "
                r'`delimiter: tab`, or "\t" in double quotes'
            )
        if given == "tab":
            return "\t"
        if isinstance(given, str) and (len(given) != 1 or given in _NO_DELIMITERS):
            raise ValueError('must be one character, as ";" or "|" in quotes, or the word `tab`')
        return given

    @field_validator("url")
    @classmethod
    def no_password(cls, url: str | None) -> str | None:
        return check_address(url) if url is not None else None

    @field_validator("query")
    @classmethod
    def in_order(cls, query: str | None) -> str | None:
        if query is not None and not _ORDERED.search(query):
            raise ValueError(
                "has no ORDER BY: without one, a database may return the rows in another order "
                "when the run is resumed; order by a unique column, such as the id"
            )
        return query

    @model_validator(mode="after")
    def one_source(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` for a file, or `url` and `query` for a database")
        if (self.url is None) != (self.query is None):
            raise ValueError("`url` and `query` belong together: a database and its query")
        if self.url is not None and (self.format != "auto" or self.delimiter != ","):
            raise ValueError("`format` and `delimiter` are for files: a query has neither")
        return self

    @model_validator(mode="before")
    @classmethod
    def named_by_custom_id(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("format") != BATCH:
            return data
        if data.get("id", "custom_id") != "custom_id":
            raise ValueError("`id`: the id of records in an OpenAI batch file is `custom_id`")
        return {**data, "id": "custom_id"}


class Output(Part):
    """The results file: ``path`` is relative to the run directory; its suffix sets the format
    unless ``format`` does. With ``table``, rows also go to that table of the database at ``url``,
    or of the records' database."""

    path: Path | None = None
    """The results file. Default: `results` with the format's suffix."""
    format: Literal["auto", "jsonl", "csv", "parquet", "openai_batch"] = "auto"
    """`auto` goes by the suffix of `path`: JSONL if there is none; for an OpenAI batch file, its
    output format."""
    raw: bool = False
    """In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front; with
    true, it is unchanged."""
    url: str | None = None
    """The table's database. Default: `records.url`."""
    table: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)?$")
    """`NAME` or `SCHEMA.NAME`: a table that also gets the rows; created if it does not exist."""

    @field_validator("url")
    @classmethod
    def no_password(cls, url: str | None) -> str | None:
        return check_address(url) if url is not None else None

    @model_validator(mode="after")
    def table_named(self) -> Self:
        if self.url is not None and self.table is None:
            raise ValueError("`url` needs `table`, the table for the results")
        return self


def with_batch_file(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job's keys, completed from its OpenAI batch file: the ``format``, if the job has neither
    prompt nor format, and the ``answer``, if it has none.

    Raises:
        ValueError: the job's answer is not the one that the file asks for.
    """
    whole, records = dict(job), job.get("records")
    if not isinstance(records, dict) or not isinstance(records.get("path"), str | Path):
        return whole
    path = Path(job.get("folder") or "") / records["path"]
    if records.get("format", "auto") == "auto" and job.get("prompt") is None:
        first = list(islice(_lines(path), _LOOKED_AT))
        if first and isinstance(first[0], dict) and {"custom_id", "params"} <= first[0].keys():
            raise ValueError(f"{path} is an Anthropic batch file; convert it to OpenAI's format")
        if any(map(is_batch_line, first)):
            records = whole["records"] = {**records, "format": BATCH}
    if records.get("format") != BATCH:
        return whole
    asked = first_format(_lines(path))
    try:
        answer = answer_of(asked)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if "answer" not in job:
        whole["answer"] = answer
    elif asked is not None and not _same_answer(job["answer"], answer):
        raise ValueError(
            f"`answer` differs from the `response_format` of {path}; leave it out to use the file's"
        )
    return whole


def for_requests(job: Mapping[str, Any]) -> Any:
    """The ``records`` of a served job: like a batch file's, unless the job has a prompt."""
    records = job.get("records", {"path": REQUESTS})
    own = job.get("prompt") is None and isinstance(records, dict) and "path" in records
    return {**records, "format": BATCH} if own else records


def first_format(lines: Iterator[Any]) -> Any:
    """The ``response_format`` of the first readable line; all others must have the same."""
    for line in lines:
        body = line.get("body") if is_batch_line(line) else None
        if isinstance(body, dict):
            return body.get("response_format")
    return None


def _same_answer(given: object, asked: Mapping[str, Any]) -> bool:
    plain = {"text": True} if given == "text" else given
    return in_one_order(plain) == in_one_order(asked)


def _lines(path: Path) -> Iterator[Any]:
    """The values of a JSONL file; None for an invalid line. Stops if the file cannot be read, which
    reading the records reports."""
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path, "rt", **_TEXT) if packed else path.open("rt", **_TEXT) as file:
            while line := file.readline(_LONGEST_LINE):
                if line.strip():
                    yield _value(line)
    except (OSError, EOFError, zlib.error):
        return


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
