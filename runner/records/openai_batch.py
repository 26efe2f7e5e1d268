"""Files of OpenAI's batch API, as `vllm run-batch` takes them too: a record a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.formats.openai_request import answer_of, fields_of, in_one_order, is_batch_line
from runner.records.jsonl_file import jsonl_records
from runner.types import Record


def batch_records(path: Path, file: Iterable[str]) -> Iterator[Record]:
    """One `Record` per non-empty line, by the name of its ``custom_id``.

    A job has one answer, so all lines must ask for the first one's ``response_format``: a line
    with another, or with anything else that cannot be done as asked, is a record with a problem.
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
        raise ValueError("it is no request of a batch file: it lacks `method`, `url` or `body`")
    fields = fields_of(line)
    if first is not None and _format(fields["body"]) != first[1]:
        raise ValueError(
            f"its `body.response_format` is not that of line {first[0]}, and a job has one answer; "
            "put such lines into a file of their own"
        )
    return fields


def _format(body: dict[str, Any]) -> str:
    """The answer that it asks for, the same for all ways to ask for it: the format's name and the
    order in which it is written are none of the answer's."""
    asked = body.get("response_format")
    try:
        return in_one_order(answer_of(asked))
    except ValueError:  # it is told with the record
        return in_one_order(asked)
