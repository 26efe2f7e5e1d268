"""Reads a job file into a `Job`, or reports all of its mistakes, each with its line and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from runner.errors import JobError, UsageError
from runner.formats import bounded_yaml
from runner.formats.foreign_json import clipped, whole
from runner.formats.yaml_changes import changes
from runner.job import Job
from runner.job.presets import resolved
from runner.job.records import for_requests, with_batch_file
from runner.job.salvage import sound_job

Location = tuple[str | int, ...]

_UNKNOWN = "extra_forbidden"
"""Pydantic's name for an unknown key."""


_DEEPEST = 20  # the most parts in the key of an override


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job, and the line of each of its keys in the file (0 for a key of an override)."""

    path: Path
    job: Job
    lines: Mapping[Location, int]
    mistakes: Sequence[str] = ()
    """The mistakes found so far, if it was not read strictly; ``job`` is then without them."""
    broken: frozenset[str] = frozenset()
    """The parts of ``job`` with mistakes, which therefore differ from what was intended."""

    def at(self, location: Location, message: str) -> str:
        """The message, with the line of the key (or the nearest one above it)."""
        return _at(location, message, self.lines)


def load_job(
    path: Path, overrides: Sequence[str] = (), *, served: bool = False, strict: bool = True
) -> JobFile:
    """Reads a job. ``overrides`` are ``KEY=VALUE`` with dotted keys and YAML values. ``served``:
    its records will be requests, so ``records`` may be missing. Without ``strict``, a job with
    mistakes is returned for `runner.pipeline.preflight.check_job`, which finds the others and
    raises all.

    Raises:
        JobError: all mistakes found, each with its line.
        UsageError: the file cannot be read, or an override is not ``KEY=VALUE``.
    """
    try:
        with path.open("rb") as file:
            text = file.read(bounded_yaml.MOST_BYTES + 1).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the job file {path}: {_why(error)}") from None
    try:
        node = bounded_yaml.nodes(text)
        lines, doubled = dict(_lines(node)), list(_doubled(node))
        data = bounded_yaml.value(node)
    except yaml.YAMLError as error:
        raise JobError(str(path), [_yaml_mistake(error)]) from None
    if not isinstance(data, dict):
        raise JobError(str(path), ["line 1: a job is a mapping of keys such as name, records, …"])
    mistakes = [f"line {line}: `{key}` is given twice" for key, line in doubled]
    mistakes += [_at(at, f"`{_dotted(at)}`: {said}", lines) for at, said in changes(node)]
    for override in overrides:
        _override(data, override, lines)
    whole = {**data, "folder": path.resolve().parent}
    job, found, broken = _job(whole, lines, served=served)
    mistakes += found
    if mistakes and (strict or job is None):
        raise JobError(str(path), sorted(mistakes, key=line_number))
    assert job is not None
    return JobFile(path, job, lines, mistakes, broken)


def make_job(given: Mapping[str, Any], folder: Path | None = None) -> Job:
    """Makes a job from plain values, as in a file; paths are relative to ``folder``.

    Raises:
        JobError: all mistakes found.
    """
    job, mistakes, _ = _job({**given, "folder": (folder or Path()).resolve()}, {})
    if mistakes or job is None:
        raise JobError("the job", mistakes)
    return job


def _job(
    whole: dict[str, Any], lines: Mapping[Location, int], *, served: bool = False
) -> tuple[Job | None, list[str], frozenset[str]]:
    """The job, its mistakes, and the parts with mistakes. The job is without the mistakes, or None
    if too little is left."""
    mistakes: list[str] = []
    broken: set[str] = set()
    if served:
        whole["records"] = for_requests(whole)
    try:
        whole = with_batch_file(whole)
    except ValueError as error:
        mistakes.append(_at(("records",), f"`records`: {error}", lines))
        broken |= {"records", "prompt", "answer"}
    try:
        whole = resolved(whole)
    except ValueError as error:
        mistakes.append(_at(("local", "preset"), f"`local.preset`: {error}", lines))
        broken.add("local")
        # Continue, to find the other mistakes.
        local = {key: value for key, value in whole["local"].items() if key != "preset"}
        whole = {**whole, "local": {"model": "-", **local}}
    try:
        return Job.model_validate(whole), mistakes, frozenset(broken)
    except ValidationError as error:
        errors: list[dict[str, Any]] = [dict(each) for each in error.errors()]
        # A key with a misspelt name is not also reported as missing.
        meant = {(*e["loc"][:-1], _nearest(e["loc"])) for e in errors if e["type"] == _UNKNOWN}
        meant |= {(name,) for name in broken}
        told = [e for e in errors if e["type"] != "missing" or e["loc"] not in meant]
        mistakes += [_mistake(each, lines) for each in told]
    sound = sound_job(whole, errors)
    if sound is None:
        return None, mistakes, frozenset(broken)
    return sound[0], mistakes, sound[1] | broken


def _at(location: Location, message: str, lines: Mapping[Location, int]) -> str:
    while location and location not in lines:
        location = location[:-1]
    if not location:
        return message
    return f"line {lines[location]}: {message}" if lines[location] else f"--set: {message}"


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8; save it as UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _yaml_mistake(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}" if mark else "line 1"
    if isinstance(error, bounded_yaml.TooMuch):
        return f"{where}: this exceeds a limit of job files: {error.problem}; shorten it"
    problem = getattr(error, "problem", None) or str(error)
    if problem.startswith("could not determine a constructor"):
        problem = "a value reserved by YAML; put it in quotes to make it text"
    if problem == "found unhashable key":
        problem += "; put a template that begins with {{ in quotes"
    return f"{where}: is not YAML: {problem}"


def _lines(node: yaml.Node | None, at: Location = ()) -> Iterator[tuple[Location, int]]:
    """Where each key and list entry starts: location → line (from 1)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))


def _doubled(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.value, key.start_mark.line + 1
            seen.add(key.value)
            yield from _doubled(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _doubled(value)


def _override(data: dict[str, Any], override: str, lines: dict[Location, int]) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes KEY=VALUE, as in escalation.budget_usd=5, not {override!r}")
    if "\0" in override or whole(override) != override:
        raise UsageError(f"--set {clipped(key)}: a character in it is not UTF-8; write it again")
    *folders, last = at = tuple(key.split("."))
    if len(at) > _DEEPEST:
        raise UsageError(f"--set {clipped(key)}: no key of a job has so many parts")
    for stale in [location for location in lines if location[: len(at)] == at]:
        del lines[stale]
    lines[at] = 0
    for name in folders:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: `{name}` is not a mapping in the job")
        data = inner
    try:
        data[last] = bounded_yaml.value(bounded_yaml.nodes(value))
    except bounded_yaml.TooMuch as error:
        raise UsageError(f"--set {clipped(key)}: {error}; give a shorter value") from None
    except yaml.YAMLError:
        data[last] = value


def _mistake(error: Mapping[str, Any], lines: Mapping[Location, int]) -> str:
    loc: Location = error["loc"]
    kind, name = error["type"], _dotted(loc)
    message = re.sub(r"^Value error, ", "", error["msg"])
    if kind == _UNKNOWN:
        message = f"unknown key `{name}`{_suggest(loc)}"
    elif kind == "missing":
        message = f"`{name}` is missing"
    elif kind == "invalid_key":
        message = f"`{_dotted(loc[:-1])}`: {loc[-1]!r} is not a key; a decimal is 0.9, not 0,9"
    elif kind == "model_type":
        message = f"`{name}` must be a mapping of: {', '.join(_keys_at(loc))}"
    elif kind == "string_type" and error["input"] is not None:
        message = f"`{name}`: YAML reads {error['input']!r} here; put it in quotes to make it text"
    elif name:
        message = _of_share(error) or message
        message = f"`{name}`: {message[0].lower()}{message[1:]}"
    return _at(loc, message, lines)


def _of_share(error: Mapping[str, Any]) -> str | None:
    """The message for a number outside 0 to 1, which is usually meant in per cent."""
    given, limits = error["input"], error.get("ctx", {})
    if isinstance(given, str) and error["type"] == "float_parsing" and given.strip().endswith("%"):
        with suppress(ValueError):
            return f"is a number, not per cent: write {_hundredth(given.strip(' %'))}"
    if error["type"] in ("float_parsing", "decimal_parsing"):
        return f"is a plain number, such as 5 or 0.5, not {given!r}"
    if 1 not in (limits.get("le"), limits.get("lt")) or isinstance(given, bool):
        return None
    share = f"; {_hundredth(given)} is {given}%" if 1 < float(given) <= 100 else ""
    return f"is from 0 to 1, not {given}{share}"


def _hundredth(given: Any) -> str:
    return f"{float(given) / 100:g}"


def _dotted(loc: Location) -> str:
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f"{'.' if out else ''}{part}"
    return out


def _suggest(loc: Location) -> str:
    if near := _nearest(loc):
        return f"; did you mean `{near}`?"
    names = _keys_at(loc[:-1])
    return f"; the keys here are: {', '.join(names)}" if names else ""


def _nearest(loc: Location) -> str | None:
    """The most similar known key, which an unknown one was probably meant to be."""
    return next(iter(difflib.get_close_matches(str(loc[-1]), _keys_at(loc[:-1]), n=1)), None)


def _keys_at(loc: Location) -> list[str]:
    model: type[BaseModel] = Job
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = next(iter(_models_in(field.annotation)), None) if field else None
        if inner is None:
            return []
        model = inner
    return [f.alias or name for name, f in model.model_fields.items() if name != "folder"]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def line_number(mistake: str) -> int:
    """The line of a mistake, for sorting."""
    found = re.match(r"line (\d+)", mistake)
    return int(found[1]) if found else 0
