"""A rule's ``answer``, validated against the job's schema or labels like any answer.

Strings are templates; other values are kept. If the schema does not require a string, a template
that is a single ``{{ … }}`` gives its value instead of text. Plain text is also allowed in place of
a schema's whole object or, if it contains fields of the record, of a label: for example a greeting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateSyntaxError, nodes

from runner.answering.prompts import Expression, Template
from runner.answering.schemas import Schema
from runner.errors import RecordError
from runner.formats.foreign_json import Unreadable, parse
from runner.formats.json_text import compact
from runner.templates.columns_read import parsed_template
from runner.types import Constraint, JSONValue, Reason, Record

_Fill = Callable[[Record], Any]
_NOBODY = Record(0, "", {}, 0)
_SHOWN = 5


class TemplateAnswer:
    """A template answer; strings in it are templates over the record. ``where`` is its key in the
    job."""

    def __init__(
        self, answer: str | Mapping[str, Any], where: str, constraint: Constraint | None = None
    ) -> None:
        self._where = where
        self._labels = constraint.labels if constraint is not None else None
        schema = constraint.schema if constraint is not None else None
        self._schema = Schema(schema) if schema is not None else None
        self._whole_text = isinstance(answer, str)
        self._constant = True
        self._fill = self._filling(answer, None if isinstance(answer, str) else self._schema)
        self._greets = isinstance(answer, str) and not (
            self._constant or _alone(answer, where) is not None
        )

    def render(self, record: Record) -> JSONValue:
        """Raises `RecordError` if the answer is not allowed or a template fails."""
        value = self._fill(record)
        if self._whole_text and self._schema is not None:
            value = _read(value)
            if isinstance(value, str):
                return value
        if self._labels is not None and self._greets:
            return value
        if (problem := self._problem(value)) is not None:
            raise RecordError(f"{self._where} {problem}", Reason.BAD_PROMPT)
        return value

    def mistake(self) -> str | None:
        """What is wrong with the answer for every record, or None."""
        if not self._constant:
            return None
        try:
            self.render(_NOBODY)
        except RecordError as error:
            return str(error)
        return None

    def _problem(self, value: Any) -> str | None:
        if self._labels is not None and value not in self._labels:
            shown = ", ".join(self._labels[:_SHOWN]) + (", …" if len(self._labels) > _SHOWN else "")
            return f"gives {_short(value)}, which is not one of the job's labels ({shown})"
        error = next(self._schema.errors(value), None) if self._schema is not None else None
        if error is None:
            return None
        at = "".join(f"[{part!r}]" for part in error.absolute_path)
        return f"gives an answer that violates the schema{at and f' at {at}'}: {error.message}"

    def _filling(self, part: Any, schema: Schema | None) -> _Fill:
        if isinstance(part, str):
            return self._text(part, schema)
        if isinstance(part, Mapping):
            rules = schema.parts() if schema is not None else {}
            inside = {name: self._filling(each, rules.get(name)) for name, each in part.items()}
            return lambda record: {name: fill(record) for name, fill in inside.items()}
        if isinstance(part, list):
            each_of = [self._filling(each, None) for each in part]
            return lambda record: [fill(record) for fill in each_of]
        return lambda record: part

    def _text(self, text: str, schema: Schema | None) -> _Fill:
        template = Template(text, self._where)
        self._constant = self._constant and template.constant
        alone = _alone(text, self._where) if schema is not None else None
        if alone is None or schema is None:
            return template.render

        def fill(record: Record) -> Any:
            value = alone.evaluate(record)
            if not isinstance(value, str):
                value = json.loads(compact(value))
                if schema.fits(value):
                    return value
            return template.render(record)

        return fill


def _alone(text: str, where: str) -> Expression | None:
    """The expression, if the text is a single ``{{ … }}``; otherwise None."""
    text = text.strip()
    body = parsed_template(text).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    if isinstance(body[0].nodes[0], nodes.TemplateData):
        return None
    try:
        return Expression(text[2:-2].removeprefix("-").removesuffix("-"), where)
    except TemplateSyntaxError:
        return None


def _read(text: str) -> Any:
    """The JSON object in the text, or the text if it is none."""
    try:
        value = parse(text)
    except Unreadable:
        return text
    return value if isinstance(value, dict) else text


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
