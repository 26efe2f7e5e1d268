"""What of a mistaken job can still be looked at, so that all of its mistakes show at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from runner.job import Job

# In place of a part that cannot be read and that no job is without.
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
    """The job without what is wrong in it, and the parts (``records``, …) that are therefore not
    what was meant: what follows from those alone is no mistake of the job's.

    Args:
        whole: the job's keys as they were given.
        errors: pydantic's, of the whole job.

    Returns:
        None where too little is left.
    """
    left = copy.deepcopy(dict(whole))
    broken = {str(error["loc"][0]) for error in errors if error["loc"]}
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    for location in unknown:
        _drop(left, location)
    if any(len(location) == 1 for location in unknown):
        # One of the parts that are not there is there, by another name.
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
    """Puts something sound in the mistake's place; returns the part that it was in."""
    # What is of the whole job is of its output and the database.
    part = str(location[0]) if location else "output"
    rules = left.get(part)
    if part == "routes" and len(location) > 1 and isinstance(rules, list):
        rules[int(location[1])] = _RULE
    elif part in _STAND_INS:
        left[part] = _STAND_INS[part]
    else:
        left.pop(part, None)
    return part
