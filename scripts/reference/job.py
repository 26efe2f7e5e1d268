"""job.md and job.schema.json: every key of a job file, from the models that check it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from reference.text import LackingError, code, said, table
from runner.job import Job

SCHEMA = "job.schema.json"
_HEAD = """# The job file

A job is one YAML file. `surelocal validate JOB.yaml` names every mistake in one at once, each with
its line and the fix. An unknown key is a mistake. Paths are relative to the job file.

Editors that know JSON Schema complete and check the keys with [job.schema.json](job.schema.json);
with the YAML language server, by a first line such as

```yaml
# yaml-language-server: $schema=docs/reference/job.schema.json
```
"""
_TYPES = {"string": "text", "object": "mapping", "array": "list", "boolean": "true or false"}
_LIMITS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("pattern", "like `{}`"),
)


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON Schema of a job file."""
    found: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Job.model_json_schema(by_alias=True),
    }
    return {**_plain(found), "title": "A surelocal job"}


def schema_text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(part: Any, *, names: bool = False) -> Any:
    """Without pydantic's titles, and texts in one line. ``names``: its keys are the job's own."""
    if isinstance(part, list):
        return [_plain(each) for each in part]
    if not isinstance(part, dict):
        return part
    kept = {
        key: _plain(value, names=key in ("properties", "$defs"))
        for key, value in part.items()
        if names or key != "title"
    }
    if not names and isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split()).replace("``", "`")
    return kept


def every_key() -> Iterator[tuple[str, dict[str, Any], bool, str]]:
    """(`local.sampling.seed`, its schema, whether it must be there, what it is), top down.

    Raises:
        LackingError: a key has no description.
    """
    yield from _keys(schema(), "")


def _keys(part: Mapping[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool, str]]:
    for name, given in part.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        inner, listed = _inner(given)
        text = given.get("description") or (inner or {}).get("description")
        if not text:
            raise LackingError(f"the job's key `{here}` has no description")
        yield here, given, name in part.get("required", ()), said(text, here)
        if inner is not None:
            yield from _keys(inner, f"{here}[]" if listed else here)


def _inner(given: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The mapping that a key holds, and whether it holds a list of them."""
    for way in (given, *given.get("anyOf", ())):
        items = way.get("items", {})
        for one, listed in ((way, False), (items, True)):
            if "$ref" in one:
                found: dict[str, Any] = schema()["$defs"][one["$ref"].rpartition("/")[2]]
                return found, listed
    return None, False


def page() -> str:
    rows: dict[str, list[tuple[str, ...]]] = {}
    texts: dict[str, str] = {}
    for path, given, needed, text in every_key():
        first = path.partition(".")[0].removesuffix("[]")
        texts.setdefault(first, text)
        if path != first or _inner(given)[0] is None:
            row = code(path), _type(given), _default(given, needed), text
            rows.setdefault(first, []).append(row)
    head = ("key", "is", "default", "what it does")
    plain = {name: found for name, found in rows.items() if _alone(name, found)}
    out = [_HEAD, table(head, (row for found in plain.values() for row in found))]
    for name, found in rows.items():
        if name not in plain:
            out += [f"## {name}\n", texts[name] + "\n", table(head, found)]
    return "\n".join(out)


def _alone(name: str, rows: list[tuple[str, ...]]) -> bool:
    return [row[0] for row in rows] == [code(name)]


def _default(given: Mapping[str, Any], needed: bool) -> str:
    if needed:
        return "must be given"
    if _inner(given)[0] is not None:
        return ""
    if given.get("default") is not None:
        return code(json.dumps(given["default"], ensure_ascii=False).strip('"'))
    return {"object": "`{}`", "array": "`[]`"}.get(given.get("type", ""), "")


def _type(given: Mapping[str, Any]) -> str:
    ways = [way for way in given.get("anyOf", [given]) if way.get("type") != "null"]
    told = list(dict.fromkeys(_one_type(way) for way in ways))
    # An amount of dollars may also be written as text.
    return told[0] if told[0].startswith("number") else " or ".join(told)


def _short(limit: float | str) -> str:
    if isinstance(limit, str):
        return limit
    return f"{limit:g}" if limit < 1 else f"{limit:,.0f}"


def _one_type(way: Mapping[str, Any]) -> str:
    if "$ref" in way:
        return "mapping"
    if "enum" in way:
        return "one of " + ", ".join(map(code, way["enum"]))
    if "const" in way:
        return code(json.dumps(way["const"]).strip('"'))
    kind = way.get("type", "any value")
    name = {"path": "path"}.get(way.get("format", ""), _TYPES.get(kind, kind))
    if kind == "array":
        name = f"list of {_one_type(way['items'])}"
    if kind == "string" and way.get("maxLength") == way.get("minLength") == 1:
        name = "one character"
    limits = [text.format(_short(way[limit])) for limit, text in _LIMITS if limit in way]
    return " ".join([name, ", ".join(limits)]).strip()
