"""The job's ``routes`` and ``privacy``: what is decided before any model, and what may leave."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from runner.job.confidence import Part


def _answer_text(value: object) -> object:
    return value if value is None or isinstance(value, (str, dict)) else json.dumps(value)


_TEXT = BeforeValidator(_answer_text, json_schema_input_type=Any)


class RouteRule(Part):
    """Before any model, the first rule that holds decides where a record goes."""

    when: str
    """A Jinja2 expression over the record's columns; the rule holds where it is true."""
    to: Literal["template", "local", "closed", "review"]
    """Answered by a template, by the local model, by the closed model, or by a person."""
    answer: Annotated[str | dict[str, Any] | None, _TEXT] = None
    """The template: Jinja2 over the record's columns, a text or the answer's fields. With
    `to: template`, and never else."""
    reason: str | None = None
    """What the result row gives as its `reason`, instead of `template` or `rule`."""
    keep_local: bool = False
    """Its records never leave the machine: what the local model is unsure of goes to a person."""

    @model_validator(mode="after")
    def template_has_answer(self) -> Self:
        if (self.to == "template") != (self.answer is not None):
            raise ValueError("`answer` belongs to `to: template`, and a template rule needs one")
        if self.to == "closed" and self.keep_local:
            raise ValueError("`to: closed` and `keep_local` contradict each other")
        return self


class Privacy(Part):
    """What the closed model must not see."""

    redact: list[str] = Field(default_factory=list)
    """Columns whose values are replaced by placeholders wherever they occur, and put back in the
    answer. A record in which one would still show is not sent."""
    patterns: tuple[Literal["email", "phone", "iban", "card"], ...] = (
        "email", "phone", "iban", "card",
    )  # fmt: skip
    """Whatever looks like one of these is replaced too."""
    keep_local: str | None = None
    """A Jinja2 expression over the record's columns; where it is true, the record never leaves the
    machine."""
