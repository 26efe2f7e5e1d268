"""People's labels: a file with the records' ids and, for each, the right answer.

For a schema the columns are its properties (or one column ``value`` of JSON objects), for labels
the column is ``label`` or ``value``. An *empty* cell says that none of the possible answers is
right: whatever the model answers there is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema.validators import validator_for

from runner.errors import InputError
from runner.records import read_records
from runner.types import Constraint, JSONValue, Record

WHOLE = "value"


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
    for record in read_records(path, id_column):
        where = f"{path}, line {record.line}"
        if record.problem is not None:
            raise InputError(f"{path}, {record.problem}")
        if record.id in labels:
            raise InputError(f"{where}: {record.id} was labelled already; keep one label a record")
        labels[record.id] = Label(record.line, _truth(record, constraint, where))
    if not labels:
        raise InputError(f"{path} holds no labels")
    return labels


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
    for name, rule in properties.items():
        if name not in given:
            continue
        value = _typed(given[name], rule)
        if value is not None and not validator_for(rule)(rule).is_valid(value):
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


def _typed(cell: Any, rule: Any) -> JSONValue:
    """A cell as the schema means it: CSV knows text alone."""
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    if not text:
        return None
    fits = validator_for(rule)(rule)
    if fits.is_valid(text):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if fits.is_valid(value) else text
