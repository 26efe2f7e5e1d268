"""Messages that say why a template or an expression failed on a record, with the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateSyntaxError, UndefinedError

from runner.errors import RecordError
from runner.formats.near_names import likely
from runner.formats.nulls import IsNull
from runner.templates.allowance import ALLOWANCE, SECONDS
from runner.templates.columns_read import columns_of, looked_at, parsed_template
from runner.templates.growth import TooMuch
from runner.types import Reason, Record

_NULL = re.compile(r"'NoneType'|^'?None'? has no ")
# Names that mean something else to Jinja2 or here.
_NOT_PLAIN = {
    "and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None",
    "record", "self", "loop",
}  # fmt: skip
_NULL = re.compile(r"'NoneType'|^'?None'? has no ")


class Failing(Protocol):
    """A template or an expression."""

    where: str
    text: str
    expression: bool


def failure(error: Exception, of: Failing, record: Record) -> RecordError:
    where = of.where
    if isinstance(error, IsNull) or _NULL.search(str(error)):
        return RecordError(_null(of, record), Reason.BAD_PROMPT)
    if isinstance(error, UndefinedError):
        return RecordError(_missing(str(error), where, record), Reason.BAD_PROMPT)
    if isinstance(error, (TooMuch, RecursionError)):
        return RecordError(stopped(error, where), Reason.BAD_PROMPT)
    text = isinstance(error, TypeError) and "'str'" in str(error)
    fix = "; values from CSV are text: write `(name | float)` for a number" if text else ""
    return RecordError(f"{where} failed: {error}{fix}", Reason.BAD_PROMPT)


def _null(of: Failing, record: Record) -> str:
    try:
        looked = looked_at(of.text) if of.expression else columns_of(parsed_template(of.text))
    except (TemplateSyntaxError, RecursionError):
        looked = set()
    name = next((n for n in sorted(looked) if record.fields.get(n, "") is None), None)
    if name is None:
        return f"{of.where} uses a value that is null; handle it with `| default('')` or an `if`"
    shown = in_template(name)
    fix = f"{shown} | default('')"
    fix = f"`({fix})`" if of.expression else f"`{{{{ {fix} }}}}`"
    return (
        f"{of.where} uses the field `{name}`, which is null; fill it in, write {fix}, or test "
        f"`{shown} is none`"
    )


def stopped(error: TooMuch | RecursionError, where: str) -> str:
    why = error if isinstance(error, TooMuch) else "it recurses too deeply"
    return (
        f"{where} was stopped: {why}; a template makes at most {ALLOWANCE:,} characters within "
        f"{SECONDS:.0f} s: shorten it, or use fewer iterations"
    )


def _missing(message: str, where: str, record: Record) -> str:
    found = re.search(r"'([^']+)' is undefined|no attribute '([^']+)'", message)
    if not found:
        return f"{where}: {message}"
    name = found[1] or found[2]
    return f"{where} names the field `{name}`, which this record lacks{hint(name, record.fields)}"


def hint(name: str, fields: Mapping[str, Any] | Sequence[str], have: str = "it has") -> str:
    columns = [str(field) for field in fields]
    if near := likely(name, columns, 0.6):
        return f"; did you mean `{in_template(near)}`?"
    return f" ({have}: {', '.join(columns)})"


def in_template(column: str) -> str:
    """The form of a column's name in a template: unchanged, or as ``record['First name']``."""
    plain = column.isidentifier() and column not in _NOT_PLAIN
    return column if plain else f"record[{column!r}]"
