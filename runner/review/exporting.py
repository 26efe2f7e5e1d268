"""`surelocal review export`: writes the records to review, as CSV or JSONL.

CSV is for spreadsheets: a byte-order mark says that it is UTF-8, and a text that would be taken
for a formula (a customer may write ``=HYPERLINK(…)``) gets an apostrophe in front, which the import
takes off again. A record's field of the same name as one of ours is called ``record.NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from escalation.certify.labels import DECISION, FROM_ALL, ID, NOTE, PART, WHY
from runner import private
from runner.answering.schemas import Schema
from runner.errors import InputError, RunFailed, UsageError
from runner.formats.formula_cells import guarded, row_writer
from runner.job import Job
from runner.ledger import Ledger, open_ledger
from runner.results import CONFIDENCE_DIGITS
from runner.review.draw import Draw
from runner.types import Constraint, JSONValue, Record

QUEUE, ACCEPTED = "queue", "accepted"
_OURS = (ID, *WHY, DECISION, NOTE)


@dataclass(frozen=True, slots=True)
class _Row:
    """One record to decide, and what a person needs to know for it."""

    record: Record
    sample: str
    reason: str | None = None
    problem: str | None = None
    local_answer: JSONValue = None
    local_confidence: float | None = None
    closed_answer: JSONValue = None

    def why(self) -> dict[str, Any]:
        sure = self.local_confidence
        cells = {name: getattr(self, name) for name in WHY}
        rounded = None if sure is None else round(sure, CONFIDENCE_DIGITS)
        return cells | {"local_confidence": rounded}


Rows = Callable[[], Iterator[_Row]]
"""All rows, as often as asked: a spreadsheet's header must know every field first."""


def export_reviews(
    run_dir: Path, job: Job, records: Iterable[Record], path: Path, draw: Draw | None = None
) -> int:
    """Writes the review queue, or a sample that is drawn from ``records``; returns how many.

    Raises:
        UsageError: the file is there already: it may hold decisions.
        InputError: the ending says neither CSV nor JSONL.
        RunFailed: the file cannot be written.
    """
    write = _WRITERS[review_format(path)]
    with open_ledger(run_dir, create=False) as ledger:
        if path.exists():
            raise UsageError(f"{path} is already there, and may hold decisions; take another name")
        rows: Rows = partial(_queue, ledger)
        if draw is not None:
            rows = list(_sample(ledger, draw, draw.records(ledger, job, records))).__iter__
        with _new_file(path) as file:
            return write(file, rows, job)


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """A file that is not left behind half written."""
    try:
        private.folder(path.parent)
        with open(path, "x", encoding="utf-8", newline="", opener=private.opener) as file:
            try:
                yield file
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        why = error.strerror or error
        raise RunFailed(f"cannot write the review file {path}: {why}") from None


def review_format(path: Path) -> str:
    """``csv`` or ``jsonl``, by the file's ending."""
    ending = path.suffix.lower().removeprefix(".")
    if ending not in _WRITERS:
        raise InputError(f"{path}: a review file is CSV or JSONL; name it as .csv or .jsonl")
    return ending


def _queue(ledger: Ledger) -> Iterator[_Row]:
    for one in ledger.reviews.queue():
        yield _Row(
            one.record, QUEUE, one.reason, one.problem, one.local, one.confidence, one.closed
        )


def _sample(ledger: Ledger, draw: Draw, records: Iterable[Record]) -> Iterator[_Row]:
    for record in records:
        outcome = ledger.find(record.id) if draw.accepted else None
        if outcome is None:
            # Labels that a model's answer suggested would flatter the model.
            yield _Row(record, FROM_ALL)
        else:
            why, sure = outcome.shown_reason, outcome.confidence
            yield _Row(record, ACCEPTED, why, None, outcome.value, sure)


def decision_columns(constraint: Constraint) -> list[str]:
    """Where a spreadsheet's user writes: a column per property, or one."""
    parts = list(Schema(constraint.schema).parts()) if constraint.schema is not None else []
    return [PART + name for name in parts] or [DECISION]


def _names(rows: Iterable[_Row], id_field: str) -> dict[str, str]:
    """The records' fields, in the order met → their columns, none of them ours or there twice."""
    columns: dict[str, str] = {}
    taken = set(_OURS)
    for row in rows:
        for name in row.record.fields:
            if name in columns or name == id_field == ID:
                continue
            column = name.strip()
            while column in taken or column.startswith(PART):
                column = f"record.{column}"
            taken.add(column)
            columns[name] = column
    return columns


def _jsonl(file: TextIO, rows: Rows, job: Job) -> int:
    names, count = _names(rows(), job.records.id), 0
    for row in rows():
        fields = {names[n]: value for n, value in row.record.fields.items() if n in names}
        line = {ID: row.record.id, **fields, **row.why(), DECISION: None, NOTE: ""}
        file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        count += 1
    return count


def _csv(file: TextIO, rows: Rows, job: Job) -> int:
    names, count = _names(rows(), job.records.id), 0
    decide = [*decision_columns(job.answer.constraint()), NOTE]
    file.write("\ufeff")
    write = row_writer(file)
    write(_cell(name) for name in (ID, *names.values(), *WHY, *decide))
    for row in rows():
        fields: Mapping[str, Any] = row.record.fields
        cells = [row.record.id, *(fields.get(name) for name in names), *row.why().values()]
        write([*map(_cell, cells), *("" for _ in decide)])
        count += 1
    return count


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return guarded(str(value))


_WRITERS: dict[str, Callable[[TextIO, Rows, Job], int]] = {
    "csv": _csv,
    "jsonl": _jsonl,
}
