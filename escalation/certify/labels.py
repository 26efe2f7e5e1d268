"""Reads people's labels: a file with records' ids and the right answer for each.

For a schema, the columns are its properties, or one column ``value`` of JSON objects if no property
has that name. A property with the id column's name is in ``decision.NAME``. For labels, the column
is ``label`` or ``value``. An *empty* cell means that none of the possible answers is right, so any
answer of the model is wrong.

A file from ``surelocal review export --sample`` is also a labels file, once every row is decided. A
file of the review queue, or of accepted answers only, is not: a certificate covers all records that
reach the local model, so the sample must be drawn from all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.answering.schemas import Schema
from runner.errors import InputError
from runner.formats.formula_cells import unguarded
from runner.formats.near_names import likely
from runner.records import column_names, file_format, likely_delimiter, read_records
from runner.types import WHOLE, Constraint, JSONValue, Name, Record

# The columns of a labels file that hold a whole answer.
_LABEL, _VALUE = "label", "value"

# The columns of a review file, with those for a person's decision and for how the records were
# drawn.
DECISION = "decision"
PART = f"{DECISION}."
SAMPLE = "sample"
FROM_ALL = "all"
ID, NOTE = "id", "note"
WHY = ("reason", "problem", "local_answer", "local_confidence", "closed_answer", SAMPLE)


@dataclass(frozen=True, slots=True)
class Label:
    """The right answer of one record: its value by field, or by `WHOLE` for a plain label; ``None``
    if no possible answer is right."""

    line: int
    truth: Mapping[Name, JSONValue]

    def wrong_fields(self, value: JSONValue) -> dict[Name, bool]:
        """Which fields of an answer are wrong."""
        if isinstance(value, dict) and WHOLE not in self.truth:
            return {
                name: value.get(name) != right
                for name, right in self.truth.items()
                if name is not WHOLE
            }
        return {WHOLE: value != self.truth.get(WHOLE)}

    def differs(self, other: Label) -> bool:
        """Whether another label of the same record is wrong according to this one."""
        return any(other.truth.get(name) != right for name, right in self.truth.items())


def label_of(value: JSONValue) -> Label:
    """An answer as the label of its record."""
    return Label(0, {**value} if isinstance(value, dict) else {WHOLE: value})


@dataclass(frozen=True, slots=True)
class _Given:
    """One row: its cells by property, and its whole answer if the file has a column for that."""

    id: str
    parts: Mapping[str, Any]
    whole: tuple[Any] | None


def read_labels(path: Path, id_column: str, constraint: Constraint) -> dict[str, Label]:
    """Labels by record id.

    Raises:
        InputError: a line cannot be a label of this job; the message names it.
    """
    if constraint.schema is None and not constraint.labels:
        raise InputError(
            "free text has no single right answer: calibration needs `answer.schema` or `.labels`"
        )
    labels: dict[str, Label] = {}
    properties = list((constraint.schema or {}).get("properties") or {})
    delimiter = likely_delimiter(path)
    review = _is_review(_columns(path, id_column, delimiter), id_column, constraint)
    plain = unguarded if file_format(path) == "csv" else str
    for record in read_records(path, ID if review else id_column, delimiter=delimiter):
        where = f"{path}, line {record.line}"
        if record.problem is not None:
            raise InputError(f"{path}, {record.problem}")
        given = (
            _from_review(record, properties, plain, where)
            if review
            else _from_columns(record, constraint, id_column)
        )
        if given.id in labels:
            raise InputError(f"{where}: {given.id} was labelled already; keep one label a record")
        labels[given.id] = Label(record.line, _truth(given, constraint, where))
    if not labels:
        raise InputError(f"{path} holds no labels")
    return labels


def _columns(path: Path, id_column: str, delimiter: str) -> set[str]:
    """The file's columns; the first record's, if records need not have the same ones."""
    names = column_names(path, delimiter=delimiter)
    if names is None:
        names = next(([*one.fields] for one in read_records(path, id_column)), [])
    return set(names)


def _is_review(names: set[str], id_column: str, constraint: Constraint) -> bool:
    """Whether it is a review file; a labels file may have columns with the same names."""
    if SAMPLE not in names or not any(f"{name}.".startswith(PART) for name in names):
        return False
    wanted = _required(constraint.schema or {})
    plain = bool(_places(constraint, names, id_column)) or (bool(wanted) and wanted <= names)
    return not plain or {ID, *WHY, NOTE} <= names


def _required(schema: Mapping[str, Any]) -> set[str]:
    return {*schema.get("required", schema.get("properties") or ())}


def _places(constraint: Constraint, names: Collection[str], id_column: str) -> list[str]:
    """The columns that hold a whole answer."""
    properties = (constraint.schema or {}).get("properties") or {}
    usual = (_LABEL, _VALUE) if constraint.labels else (_VALUE,)
    return [n for n in usual if n in names and n != id_column and n not in properties]


def _from_columns(record: Record, constraint: Constraint, id_column: str) -> _Given:
    fields, schema = record.fields, constraint.schema or {}
    parts = {name: fields[name] for name in schema.get("properties") or {} if name in fields}
    if id_column in parts and PART + id_column in fields:
        parts[id_column] = fields[PART + id_column]
    if schema and parts and _required(schema) <= parts.keys():
        return _Given(record.id, parts, None)  # a column `value` is then a field of the record
    places = _places(constraint, fields, id_column)
    return _Given(record.id, parts, (fields[places[0]],) if places else None)


def _from_review(
    record: Record, properties: Sequence[str], plain: Callable[[str], str], where: str
) -> _Given:
    """Raises InputError if the row has no decision or is not of a random sample of all records."""
    fields = record.fields
    if fields[SAMPLE] != FROM_ALL:
        raise InputError(
            f"{where}: `sample` is {fields[SAMPLE]!r}, but certification needs a random sample of "
            "all records that the local model answers; export one with `surelocal review export "
            "RUN_DIR FILE --sample N`"
        )
    cells = {n: plain(c) if isinstance(c, str) else c for n, c in fields.items()}
    parts = {name: cells[PART + name] for name in properties if PART + name in cells}
    whole = cells.get(DECISION)
    if is_empty(whole) and all(map(is_empty, parts.values())):
        raise InputError(
            f"{where}: {record.id} has no decision; the sample must be complete: decide every row"
        )
    return _Given(plain(record.id.strip()), parts, None if is_empty(whole) else (whole,))


def is_empty(cell: Any) -> bool:
    """Whether a cell is empty or blank."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _truth(given: _Given, constraint: Constraint, where: str) -> dict[Name, JSONValue]:
    if constraint.labels:
        if given.whole is None:
            raise InputError(f"{where}: no column `{_LABEL}`")
        cell = given.whole[0]
        label = None if cell is None or not str(cell).strip() else str(cell).strip()
        if label is not None and label not in constraint.labels:
            near = likely(label, constraint.labels)
            hint = f"did you mean {near!r}? Otherwise {_EMPTY}" if near else _EMPTY
            raise InputError(f"{where}: {label!r} is not one of the job's labels; {hint}")
        return {WHOLE: label}
    return _object(given, dict(constraint.schema or {}), where)


_EMPTY = "leave it empty if none of the answers is right"


def _object(row: _Given, schema: Mapping[str, Any], where: str) -> dict[Name, JSONValue]:
    properties: dict[str, Any] = schema.get("properties") or {}
    given = row.parts if row.whole is None else _parsed(row.whole[0], where)
    required = schema.get("required", properties)
    missing = [name for name in required if name not in given]
    if missing:
        raise InputError(f"{where}: no column `{missing[0]}`, which the job's schema requires")
    truth: dict[Name, JSONValue] = {}
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
        raise InputError(f"{where}: the column `value` does not hold a JSON object")
    return value


def typed(cell: Any, rule: Schema) -> JSONValue:
    """A cell converted to the schema's type, since CSV holds only text."""
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
