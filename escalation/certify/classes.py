"""Values for the whole answer and for its fields, as JSON. They are kept apart, since a field may
have any name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.answering.check import of_fields
from runner.types import WHOLE, Name


def apart(by_name: Mapping[Name, Any]) -> dict[str, Any]:
    """Values by name → ``{"whole": …, "fields": {…}}``; "whole" is left out if there is none."""
    whole = {"whole": by_name[WHOLE]} if WHOLE in by_name else {}
    return {**whole, "fields": of_fields(by_name)}


def joined(data: Mapping[str, Any]) -> dict[Name, Any]:
    """The inverse of `apart`. Raises KeyError if ``data`` lacks "fields"."""
    fields: dict[Name, Any] = dict(data["fields"])
    return fields | ({WHOLE: data["whole"]} if "whole" in data else {})
