"""Markdown from docstrings, and from the texts under the names of a class."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Sequence
from textwrap import dedent


class LackingError(Exception):
    """Something has no description."""


def said(text: str | None, of: str) -> str:
    """The text in one line.

    Raises:
        LackingError: there is none.
    """
    found = " ".join(inspect.cleandoc(text or "").split())
    if not found:
        raise LackingError(f"{of} has no description")
    return found.replace("``", "`")


def under(cls: type) -> dict[str, str]:
    """Each name of a class body → the text under it, in order of definition.

    Raises:
        LackingError: one has none.
    """
    body = ast.parse(dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = ast.unparse(target)
            found[name] = said(_string(after), f"{cls.__module__}.{cls.__name__}.{name}")
    return found


def _string(node: ast.stmt | None) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) else None
    return text if isinstance(text, str) else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; pipes in cells are escaped."""
    lines = [head, ["---"] * len(head), *([_cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|")


def code(value: object) -> str:
    return f"`{value}`"


def block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"
