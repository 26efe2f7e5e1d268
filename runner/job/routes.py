"""The job's ``routes`` and ``privacy``: decisions before any model, and what may be sent."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from runner.job.confidence import Part


def _answer_text(value: object) -> object:
    return value if value is None or isinstance(value, (str, dict)) else json.dumps(value)


_TEXT = BeforeValidator(_answer_text, json_schema_input_type=Any)


class RouteRule(Part):
    """A routing rule. The first rule that matches decides where a record goes, before any model."""

    when: str
    """A Jinja2 expression over the record's columns; the rule matches if it is true."""
    to: Literal["template", "local", "closed", "review"]
    """Who answers: a template, the local model, the closed model, or a person."""
    answer: Annotated[str | dict[str, Any] | None, _TEXT] = None
    """The template: Jinja2 over the record's columns, as text or as the answer's fields. Only with
    `to: template`."""
    reason: str | None = None
    """The `reason` in the result row, instead of `template` or `rule`."""
    keep_local: bool = False
    """Its records never leave the machine; unsure ones go to a person."""

    @model_validator(mode="after")
    def template_has_answer(self) -> Self:
        if (self.to == "template") != (self.answer is not None):
            raise ValueError("`answer` belongs to `to: template`, and a template rule needs one")
        if self.to == "closed" and self.keep_local:
            raise ValueError("`to: closed` and `keep_local` contradict each other")
        return self


class Privacy(Part):
    """What must not be sent to the closed model."""

    redact: list[str] = Field(default_factory=list)
    """Columns whose values are replaced by placeholders wherever they occur, and restored in the
    answer. A record in which a value would remain is not sent."""
    patterns: tuple[Literal["email", "phone", "iban", "card"], ...] = (
        "email", "phone", "iban", "card",
    )  # fmt: skip
    """Text that matches one of these patterns is also replaced."""
    keep_local: str | None = None
    """A Jinja2 expression over the record's columns; if it is true, the record never leaves the
    machine."""
