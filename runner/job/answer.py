"""The job's ``prompt`` and ``answer``: what the model is asked, and the form of its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import Field, field_validator, model_validator

from runner.job.confidence import Part
from runner.types import Constraint


class PromptTemplates(Part):
    """Jinja2 templates over the record's columns; `record['First name']` names any column. Left out
    for an OpenAI batch file, whose messages are the prompt."""

    system: str | None = None
    """The system message. If it uses no column, it is the same for every record, and the closed
    model's provider caches it."""
    user: str
    """The user's message."""


class AnswerSpec(Part):
    """Exactly one of the three; `answer: text` is the same as `{text: true}`. Left out for an
    OpenAI batch file, whose `response_format` it is."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    """A JSON Schema of an object. Every answer must fit it, including the closed model's and a
    person's; models fill its properties in order."""
    labels: list[str] | None = None
    """The answer is exactly one of these; at least two, all different."""
    text: Literal[True] | None = None
    """Free text."""

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        given = [self.json_schema is not None, self.labels is not None, self.text is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of `schema`, `labels` and `text: true`")
        return self

    @field_validator("labels")
    @classmethod
    def labels_differ(cls, labels: list[str] | None) -> list[str] | None:
        if labels is None:
            return None
        if len(labels) < 2 or len(set(labels)) != len(labels) or not all(labels):
            raise ValueError("needs at least two labels, none empty and none given twice")
        return labels

    @field_validator("json_schema")
    @classmethod
    def schema_is_one(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is None:
            return None
        if (found := next(_not_json(schema, ""), None)) is not None:
            raise ValueError(found)
        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is not a JSON Schema: {error.message}") from None
        if schema.get("type") != "object":
            raise ValueError("must describe an object: `type: object` with `properties`")
        return schema

    def constraint(self) -> Constraint:
        return Constraint(
            schema=self.json_schema, labels=tuple(self.labels) if self.labels else None
        )


def _not_json(part: Any, at: str) -> Iterator[str]:
    """The parts of a schema that YAML allows and JSON does not."""
    where = f" at `{at}`" if at else ""
    if isinstance(part, dict):
        for key, each in part.items():
            if not isinstance(key, str):
                yield (
                    f"has the name {key!r}{where}, which YAML does not read as text: put it in "
                    "quotes, as in 'no' and '1'"
                )
            yield from _not_json(each, f"{at}.{key}" if at else str(key))
    elif isinstance(part, list):
        for n, each in enumerate(part):
            yield from _not_json(each, f"{at}[{n}]")
    elif isinstance(part, float) and not math.isfinite(part):
        yield f"has {part}{where}, which is not a number in JSON"
    elif not isinstance(part, (str, int, float, type(None))):
        yield f"has {type(part).__name__}{where}, which JSON does not have: put it in quotes"
