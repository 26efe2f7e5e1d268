"""python.md: the public names of `surelocal`, with their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import surelocal
from reference.text import LackingError, block, code, said
from runner.job.confidence import Part


def page() -> str:
    title, _, rest = (surelocal.__doc__ or "").partition("\n\n")
    out = [f"# {title.rstrip('.')}\n", _markdown(rest.strip("\n"), "surelocal")]
    for name in surelocal.__all__:
        out += _named(name, getattr(surelocal, name))
    return "\n".join(out)


def _named(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}\n"
    if inspect.isclass(value):
        if issubclass(value, Part):
            yield said(value.__doc__, name) + " Its fields are the [job file's keys](job.md).\n"
        else:
            yield _doc(value, name)
        if dataclasses.is_dataclass(value):
            fields = ", ".join(code(f"{f.name}: {f.type}") for f in dataclasses.fields(value))
            yield f"Fields: {fields}.\n"
        for member, method in _methods(value):
            yield f"### {name}.{member}\n"
            yield block(f"def {member}{_signature(method)}", "python")
            yield _doc(method, f"{name}.{member}")
        return
    yield block(f"def {name}{_signature(value)}", "python")
    yield _doc(value, name)


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Of a job none: they are for the code that runs it."""
    for name, method in vars(cls).items():
        if inspect.isfunction(method) and not name.startswith("_") and not issubclass(cls, Part):
            yield name, method


def _signature(function: Any) -> str:
    """One parameter a line where it would not fit into one."""
    whole = inspect.signature(function)
    text = str(whole).replace("'", "")
    if len(text) <= 80:
        return text
    lines: list[str] = []
    for parameter in whole.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "    *," not in lines:
            lines.append("    *,")
        lines.append(f"    {parameter},".replace("'", ""))
    told = "" if whole.return_annotation is whole.empty else f" -> {whole.return_annotation}"
    return "\n".join(["(", *lines, f"){told}"]).replace("'", "")


def _doc(value: Any, name: str) -> str:
    """A docstring as Markdown: its indented parts (Args, Raises, examples) as they stand."""
    text = inspect.cleandoc(value.__doc__ or "")
    if not text:
        raise LackingError(f"surelocal.{name} has no docstring")
    return _markdown(text, name)


def _markdown(text: str, name: str) -> str:
    out: list[str] = []
    for part in _parts(text):
        titled, _, rest = part.partition("\n")
        if titled in ("Args:", "Raises:", "Returns:"):
            out += [f"{titled}\n", *_listed(rest)]
        elif part.startswith("    "):
            out.append(block(dedent(part), "python"))
        else:
            out.append(said(part, name) + "\n")
    return "\n".join(out)


def _parts(text: str) -> list[str]:
    """Its paragraphs; an example with empty lines in it is one."""
    found: list[str] = []
    for part in text.split("\n\n"):
        if found and all(each.startswith("    ") for each in (found[-1], part)):
            found[-1] += f"\n\n{part}"
        else:
            found.append(part)
    return found


def _listed(text: str) -> Iterator[str]:
    entries: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if line.startswith(" "):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    for entry in entries:
        name, _, what = entry.partition(": ")
        yield f"- {code(name)}: {what}".replace("``", "`")
    yield ""
