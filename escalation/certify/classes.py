"""What is known of the whole answer and of its fields, as JSON: in two places, since a field may
have any text for a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.answering.check import of_fields
from runner.types import WHOLE, Name


def apart(by_name: Mapping[Name, Any]) -> dict[str, Any]:
    """By name → ``{"whole": …, "fields": {…}}``; without the first where there is none."""
    whole = {"whole": by_name[WHOLE]} if WHOLE in by_name else {}
    return {**whole, "fields": of_fields(by_name)}


def joined(data: Mapping[str, Any]) -> dict[Name, Any]:
    """The other way. Raises KeyError where it is no such thing."""
    fields: dict[Name, Any] = dict(data["fields"])
    return fields | ({WHOLE: data["whole"]} if "whole" in data else {})
