"""Keeps the valid parts of a job with mistakes, so that all mistakes can be found at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from runner.job import Job

# Replacements for required parts that cannot be read.
_STAND_INS: dict[str, Any] = {
    "name": "job",
    "records": {"path": "-"},
    "prompt": {"user": "-"},
    "answer": {"text": True},
    "local": {"model": "-"},
}
_RULE = {"when": "true", "to": "local"}
_MOST_PASSES = 3


def sound_job(
    whole: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]
) -> tuple[Job, frozenset[str]] | None:
    """The job without its mistakes, and the parts (``records``, …) that therefore differ from what
    was intended; problems that follow only from those are not the job's mistakes.

    Args:
        whole: the job's keys as given.
        errors: pydantic's errors for the whole job.

    Returns:
        None if too little is left.
    """
    left = copy.deepcopy(dict(whole))
    broken = {str(error["loc"][0]) for error in errors if error["loc"]}
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    for location in unknown:
        _drop(left, location)
    if any(len(location) == 1 for location in unknown):
        # One of the missing parts is probably there under a wrong name.
        broken |= set(Job.model_fields) - set(left)
    for _ in range(_MOST_PASSES):
        try:
            return Job.model_validate(left), frozenset(broken)
        except ValidationError as error:
            for one in error.errors():
                broken.add(_replace(left, one["loc"]))
    return None


def _drop(left: Any, location: Sequence[str | int]) -> None:
    for step in location[:-1]:
        try:
            left = left[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(left, dict):
        left.pop(location[-1], None)


def _replace(left: dict[str, Any], location: Sequence[str | int]) -> str:
    """Replaces the mistake by a valid value; returns the part that it was in."""
    # An error of the whole job concerns its output and the database.
    part = str(location[0]) if location else "output"
    rules = left.get(part)
    if part == "routes" and len(location) > 1 and isinstance(rules, list):
        rules[int(location[1])] = _RULE
    elif part in _STAND_INS:
        left[part] = _STAND_INS[part]
    else:
        left.pop(part, None)
    return part
