"""Reads files of OpenAI's batch API, which `vllm run-batch` also reads: one record per line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.formats.openai_request import answer_of, fields_of, in_one_order, is_batch_line
from runner.records.jsonl_file import jsonl_records
from runner.types import Record


def batch_records(path: Path, file: Iterable[str]) -> Iterator[Record]:
    """One `Record` per non-empty line; its id is the ``custom_id``.

    A job has one answer format, so all lines must have the first one's ``response_format``. A line
    with another one, or with any other unsupported setting, is a record with a problem.
    """
    first: tuple[int, str] | None = None
    for record in jsonl_records(path, file, "custom_id"):
        if record.problem is not None:
            yield record
            continue
        line = record.fields
        body = line.get("body")
        if first is None and is_batch_line(line) and isinstance(body, dict):
            first = (record.line, _format(body))
        try:
            yield replace(record, fields=_fields(record, first))
        except ValueError as error:
            yield replace(record, problem=f"line {record.line}: {error}")


def _fields(record: Record, first: tuple[int, str] | None) -> dict[str, Any]:
    line = record.fields
    if not is_batch_line(line):
        raise ValueError("it is not a batch request: it lacks `method`, `url` or `body`")
    fields = fields_of(line)
    if first is not None and _format(fields["body"]) != first[1]:
        raise ValueError(
            f"its `body.response_format` is not that of line {first[0]}, but a job has only one; "
            "put such lines into a separate file"
        )
    return fields


def _format(body: dict[str, Any]) -> str:
    """The requested answer in canonical form: the format's name and the order of keys do not
    matter."""
    asked = body.get("response_format")
    try:
        return in_one_order(answer_of(asked))
    except ValueError:  # reported with the record
        return in_one_order(asked)
