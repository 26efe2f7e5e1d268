"""People's labels: a file with the records' ids and, for each, the right answer.

For a schema the columns are its properties (or one column ``value`` of JSON objects), for labels
the column is ``label`` or ``value``. An *empty* cell says that none of the possible answers is
right: whatever the model answers there is wrong.

A file of ``localfirst review export --sample`` is a labels file too, once every row is decided. One
of the review queue, or of accepted answers alone, is none: a certificate speaks of all records that
reach the local model, and is false where the sample was drawn from some of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import InputError
from runner.records import file_format, read_records
from runner.schemas import Schema
from runner.types import Constraint, JSONValue, Record

WHOLE = "value"

# The columns of a review file that say what a person decided, and how its records were drawn.
DECISION = "decision"
PART = f"{DECISION}."
SAMPLE = "sample"
FROM_ALL = "all"

# What a spreadsheet would take for a formula (OWASP, "CSV Injection"); a plain number is none.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile(rf"'{_FORMULA.pattern}")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")


def guarded(text: str) -> str:
    """A text as it can stand in a CSV cell that a spreadsheet opens: never a formula."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The text that was `guarded`; any other as it is."""
    return text[1:] if _GUARDED.match(text) else text


@dataclass(frozen=True, slots=True)
class Label:
    """The right answer of one record: its value by field (``value`` alone for a plain label);
    ``None`` where no possible answer is right."""

    line: int
    truth: Mapping[str, JSONValue]

    def wrong_fields(self, value: JSONValue) -> dict[str, bool]:
        """Which fields of an answer are wrong."""
        if isinstance(value, dict) and WHOLE not in self.truth:
            return {name: value.get(name) != right for name, right in self.truth.items()}
        return {WHOLE: value != self.truth.get(WHOLE)}

    def differs(self, other: Label) -> bool:
        """Whether another judge's answer to the same record is wrong by this one."""
        return any(other.truth.get(name) != right for name, right in self.truth.items())


def label_of(value: JSONValue) -> Label:
    """An answer as the label of its record."""
    return Label(0, value if isinstance(value, dict) else {WHOLE: value})


def read_labels(path: Path, id_column: str, constraint: Constraint) -> dict[str, Label]:
    """Labels by record id.

    Raises:
        InputError: for the first few lines that cannot be labels of this job, named.
    """
    if constraint.schema is None and not constraint.labels:
        raise InputError(
            "free text has no one right wording: calibration needs `answer.schema` or `.labels`"
        )
    labels: dict[str, Label] = {}
    plain = unguarded if file_format(path) == "csv" else str
    for record in read_records(path, id_column):
        where = f"{path}, line {record.line}"
        if record.problem is not None:
            raise InputError(f"{path}, {record.problem}")
        record = _from_review(record, plain, where)
        if record.id in labels:
            raise InputError(f"{where}: {record.id} was labelled already; keep one label a record")
        labels[record.id] = Label(record.line, _truth(record, constraint, where))
    if not labels:
        raise InputError(f"{path} holds no labels")
    return labels


def _from_review(record: Record, plain: Callable[[str], str], where: str) -> Record:
    """A review file's row as a row of labels; any other as it is.

    Raises:
        InputError: it is not decided, or not of a random sample of all.
    """
    given = record.fields
    decided = {name: cell for name, cell in given.items() if f"{name}.".startswith(PART)}
    if SAMPLE not in given or not decided:
        return record
    if given[SAMPLE] != FROM_ALL:
        raise InputError(
            f"{where}: `sample` is {given[SAMPLE]!r}, and only a random sample of all that the "
            "local model answers can certify anything; export one with `localfirst review export "
            "RUN_DIR FILE --sample N`"
        )
    whole = decided.pop(DECISION, None)
    cells = (
        whole if isinstance(whole, dict) else {n.removeprefix(PART): c for n, c in decided.items()}
    )
    if not is_empty(whole) and not isinstance(whole, dict):
        cells = {WHOLE: whole}
    if all(map(is_empty, cells.values())):
        raise InputError(
            f"{where}: {record.id} has no decision; a sample certifies only whole: decide every row"
        )
    fields = {n: plain(c) if isinstance(c, str) else c for n, c in cells.items()}
    return replace(record, id=plain(str(given.get("id", record.id)).strip()), fields=fields)


def is_empty(cell: Any) -> bool:
    """Whether nothing stands in a cell."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _truth(record: Record, constraint: Constraint, where: str) -> dict[str, JSONValue]:
    if constraint.labels:
        cell = record.fields.get("label", record.fields.get(WHOLE))
        if "label" not in record.fields and WHOLE not in record.fields:
            raise InputError(f"{where}: no column `label`")
        label = None if cell is None or not str(cell).strip() else str(cell).strip()
        if label is not None and label not in constraint.labels:
            raise InputError(f"{where}: {label!r} is none of the job's labels; {_EMPTY}")
        return {WHOLE: label}
    return _object(record, dict(constraint.schema or {}), where)


_EMPTY = "leave it empty where none of the answers is right"


def _object(record: Record, schema: Mapping[str, Any], where: str) -> dict[str, JSONValue]:
    properties: dict[str, Any] = schema.get("properties") or {}
    given = record.fields
    if WHOLE in given and WHOLE not in properties:
        given = _parsed(given[WHOLE], where)
    missing = [name for name in schema.get("required", properties) if name not in given]
    if missing:
        raise InputError(f"{where}: no column `{missing[0]}`, which the job's schema requires")
    truth: dict[str, JSONValue] = {}
    for name, rule in Schema(schema).parts().items():
        if name not in given:
            continue
        value = None if is_empty(given[name]) else typed(given[name], rule)
        if value is not None and not rule.fits(value):
            raise InputError(f"{where}: {value!r} does not fit the schema of `{name}`; {_EMPTY}")
        truth[name] = value
    return truth


def _parsed(cell: Any, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(cell) if isinstance(cell, str) else cell
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{where}: the column `value` holds no JSON object")
    return value


def typed(cell: Any, rule: Schema) -> JSONValue:
    """A cell as the schema means it: CSV knows text alone."""
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if rule.fits(text):
        return text
    for form in (text, text.lower()):  # spreadsheets write TRUE
        try:
            value = json.loads(form)
        except (ValueError, RecursionError):
            continue
        if rule.fits(value):
            return value
    return text
