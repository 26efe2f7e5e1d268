"""Reads a person's decision from a row of a review file, and checks it like any answer."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError
from referencing.exceptions import Unresolvable

from escalation.certify.labels import DECISION, PART, is_empty, typed
from runner.answering.check import Checker
from runner.answering.schemas import Schema
from runner.formats.formula_cells import unguarded
from runner.types import Completion, Constraint, JSONValue

LATER = "correct it, or leave it empty to decide later"
_MOST_OPTIONS = 8


class Decisions:
    """Reads decisions on answers of one ``constraint``. ``cells``: of a CSV file, where all is
    text and an apostrophe may stand guard, which ``plain`` takes off."""

    def __init__(self, constraint: Constraint, *, cells: bool) -> None:
        self._constraint = constraint
        self.plain = unguarded if cells else str
        self._checker = Checker(constraint)
        schema = dict(constraint.schema or {})
        self._parts = Schema(schema).parts()
        # A file's column has no white space around it, which a property's name may have.
        self._columns = {n: f"{PART}{n}".strip() if cells else PART + n for n in self._parts}
        self._required = schema.get("required") or []
        self._validator = Schema(schema)

    def unknown_column(self, names: Iterable[str]) -> str | None:
        """The problem with a column that only resembles a decision column, or None."""
        for name in names:
            part = name.removeprefix(PART)
            if name.startswith(PART) and name not in self._columns.values():
                near = difflib.get_close_matches(part, self._parts, n=1)
                hint = f"did you mean `{PART}{near[0]}`?" if near else "take the column out"
                return f"the answer has no property for the column `{name}`; {hint}"
        return None

    def read(self, fields: Mapping[str, Any]) -> JSONValue:
        """The decision; ``None`` where there is none yet.

        Raises:
            ValueError: it cannot be an answer of this job, with the column and the fix.
        """
        try:
            return self._read(fields)
        except Unresolvable as error:
            raise ValueError(f"the job's schema cannot be used: {error}; fix it") from None

    def _read(self, fields: Mapping[str, Any]) -> JSONValue:
        whole, column = self._given(fields)
        if whole is None:
            return None
        if self._constraint.schema is None and not self._constraint.labels:
            if not isinstance(whole, str):
                raise ValueError(f"`{DECISION}` is no text; write it as one")
            return whole
        text = whole if isinstance(whole, str) else json.dumps(whole, ensure_ascii=False)
        checked = self._checker.check(Completion(text, "", "stop"))
        if not checked.valid:
            raise ValueError(self._why(whole, column, checked.problem))
        return checked.value

    def _given(self, fields: Mapping[str, Any]) -> tuple[JSONValue, str]:
        columns = self._columns.items()
        cells = {n: c for n, at in columns if not is_empty(c := self._cell(fields.get(at)))}
        if cells:
            value = {name: typed(cell, self._parts[name]) for name, cell in cells.items()}
            # An empty cell is the one way to write null in a spreadsheet.
            nulls = (n for n in self._required if n not in value and n in self._parts)
            return value | {n: None for n in nulls if self._parts[n].fits(None)}, PART
        whole = self._cell(fields.get(DECISION))
        return None if is_empty(whole) else whole, DECISION

    def _cell(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return self.plain(value).strip()

    def _why(self, whole: JSONValue, column: str, problem: str | None) -> str:
        if self._constraint.labels:
            return (
                f"`{DECISION}`: {whole!r} is none of {_options(self._constraint.labels)}; {LATER}"
            )
        value = _parsed(whole)
        if not isinstance(value, dict):
            return f"`{DECISION}` holds no JSON object; {LATER}"
        error = next(self._validator.errors(value), None)
        if error is None:
            return f"{problem}; {LATER}"
        return _sentence(error, column, value)


def _parsed(whole: JSONValue) -> JSONValue:
    try:
        return json.loads(whole) if isinstance(whole, str) else whole
    except (ValueError, RecursionError):
        return None


def _sentence(error: ValidationError, column: str, value: Mapping[str, Any]) -> str:
    at = ".".join(str(part) for part in error.absolute_path)
    where = f"{PART}{at}" if at else column.removesuffix(".")
    rule: Any = error.validator_value
    if error.validator == "required" and not at:
        name = next(n for n in rule if n not in value)
        return f"`{PART}{name}` is empty, and the schema requires it; fill it in"
    if error.validator == "enum":
        return f"`{where}`: {error.instance!r} is none of {_options(rule)}; {LATER}"
    return f"`{where}`: {error.message}; {LATER}"


def _options(options: Iterable[Any]) -> str:
    named = [str(option) for option in options]
    more = f" and {len(named) - _MOST_OPTIONS} more" if len(named) > _MOST_OPTIONS else ""
    return ", ".join(named[:_MOST_OPTIONS]) + more
