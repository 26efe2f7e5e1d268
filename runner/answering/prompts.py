"""Makes prompts and routing decisions from records with Jinja2: sandboxed
(`runner.templates.sandbox`), and strict about missing fields."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from typing import Any
from unicodedata import category

from jinja2 import TemplateSyntaxError, meta, nodes

from runner.errors import RecordError
from runner.formats.openai_request import most_usd, sampling_of
from runner.job import Job
from runner.templates.growth import TooMuch
from runner.templates.sandbox import Environment, Filled
from runner.templates.template_errors import failure, hint, stopped
from runner.templates.template_errors import in_template as in_template
from runner.types import Constraint, Message, Prompt, Reason, Record

_environment = Environment()
# Invisible letters and marks, besides Unicode's spaces and control characters.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    *map(chr, range(0x180B, 0x1810)), *map(chr, range(0xFE00, 0xFE10)),
}  # fmt: skip
_CODE = re.compile(r"\{[{%](.*?)(?:[}%]\}|$)", re.DOTALL)


class Template:
    """A template of a job; ``where`` is its key in the job (``prompt.user``). ``constant``: it uses
    no field of the record. ``plain``: its text, if it has no placeholders."""

    expression = False

    def __init__(self, text: str, where: str) -> None:
        self.where, self.text = where, text
        self._template = _environment.from_string(text)
        parsed = _environment.parse(text)
        self.constant = not meta.find_undeclared_variables(parsed)
        self.plain = "".join(self.filled({})) if "{" not in text else None
        self._own = _literals(parsed)

    def render(self, record: Record) -> str:
        """Raises `RecordError` for a field the record lacks, or any other failure inside."""
        return self.plain if self.plain is not None else "".join(self._pieces(record))

    def message(self, role: str, record: Record) -> Message:
        """The rendered message, with the spans of the template's text."""
        return self.told(role, record)[0]

    def told(self, role: str, record: Record) -> tuple[Message, list[str]]:
        """The message, and the texts that were filled in for this record."""
        pieces = [self.plain] if self.plain is not None else self._pieces(record)
        text = "".join(pieces)
        if self.constant:
            return Message(role, text, cacheable=role == "system", own=((0, len(text)),)), []
        own, at = [], 0
        for piece in pieces:
            if piece in self._own and type(piece) is str:
                own.append((at, at + len(piece)))
            at += len(piece)
        made: list[str] = [piece for piece in pieces if isinstance(piece, Filled)]
        return Message(role, text, own=tuple(own)), made

    def _pieces(self, record: Record) -> list[str]:
        try:
            return self.filled(record.fields)
        except Exception as error:  # a failing template fails only this record
            raise failure(error, self, record) from None

    def filled(self, fields: Mapping[str, Any]) -> list[str]:
        """Raises whatever goes wrong inside."""
        return _environment.pieces(self._template, fields)


def _literals(parsed: nodes.Template) -> frozenset[str]:
    """The literal texts of a template. All other text counts as the record's, including the output
    of filters and macros."""
    found = set()
    for output in parsed.find_all(nodes.Output):
        for literal, group in groupby(output.nodes, lambda n: isinstance(n, nodes.TemplateData)):
            text = "".join(n.data for n in group if isinstance(n, nodes.TemplateData))
            if literal and re.search(r"\w", text):
                found.add(text)
    return frozenset(found)


class Expression:
    """One Jinja2 expression of a job, such as a route's ``when``."""

    expression = True

    def __init__(self, text: str, where: str) -> None:
        self.where, self.text = where, text
        self._expression = _environment.expression(text)

    def evaluate(self, record: Record) -> Any:
        """Raises `RecordError` for a field the record lacks, or any other failure inside."""
        try:
            return self.filled(record.fields)
        except Exception as error:  # a failing expression fails only this record
            raise failure(error, self, record) from None

    def filled(self, fields: Mapping[str, Any]) -> Any:
        """Raises whatever goes wrong inside."""
        return self._expression(fields)


def _odd_column(source: str, columns: Sequence[str] | None) -> tuple[str, str]:
    """A column written in a form that Jinja2 cannot read, and the fix; or two empty strings."""
    code = " ".join(_CODE.findall(source))
    bare = re.sub(r"""'[^']*'|"[^"]*\"""", "", code)
    odd = [c for c in columns or () if c and in_template(c) != c]
    found = [c for c in odd if re.search(rf"(?<!\w){re.escape(c)}(?!\w)", bare)]
    if found:
        column = max(found, key=len)
        return column, f"the column `{column}` is written `{in_template(column)}`"
    if columns is None and re.search(r"^\s*\w+[ \t]+\w+\s*$", bare):
        return "", "a column whose name has a space is written `record['Customer message']`"
    return "", ""


def template_mistakes(
    text: str, where: str, columns: Sequence[str] | None, *, expression: bool = False
) -> list[str]:
    """The mistakes in a template that can be found without records: syntax and unknown fields.

    ``columns`` is ``None`` if records need not have the same fields.
    """
    source = "{{ " + text + " }}" if expression else text
    try:
        # Compiled as in a run: parsing alone does not detect unknown filters.
        made = (Expression if expression else Template)(text, where)
        undeclared = meta.find_undeclared_variables(_environment.parse(source))
    except TemplateSyntaxError as error:
        _, fix = _odd_column(source, columns)
        fix = f"; {fix}" if fix else ""
        return [f"`{where}` is not a Jinja2 {_kind(expression)}: {error.message}{fix}"]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # Errors in the code that Jinja2 generates: nested too deep, a number too long.
        why = str(error).partition(";")[0] or "it is nested too deep"
        return [f"`{where}` is too complex for Jinja2: {why}; simplify it"]
    try:
        made.filled(dict.fromkeys({*undeclared, *(columns or ())}, ""))
    except (TooMuch, RecursionError) as error:  # fails for every record
        return [stopped(error, f"`{where}`")]
    except Exception:  # may be due to the empty fields
        pass
    if columns is None or re.search(r"\bdefined\b|\bdefault\(|\bd\(", text):
        return []
    unknown = sorted(undeclared - {*columns, "record"})
    unknown = [name for name in unknown if name not in _environment.globals]
    column, fix = _odd_column(source, columns)
    parts = set(re.findall(r"\w+", column)).intersection(unknown)
    found = [f"`{where}`: {fix}"] if parts else []
    return found + [
        f"`{where}` names the field `{name}`, which the records lack"
        + hint(name, columns, "they have")
        for name in unknown
        if name not in parts
    ]


def _kind(expression: bool) -> str:
    return "expression" if expression else "template"


class Renderer:
    """Renders a job's prompt for each record."""

    def __init__(self, system: str | None, user: str, constraint: Constraint) -> None:
        self._system = Template(system, "prompt.system") if system is not None else None
        self._user = Template(user, "prompt.user")
        self._constraint = constraint
        self._first: Message | None = None
        if self._system is not None and self._system.plain is not None:
            self._first = self._system.message("system", Record(0, "", {}, 0))

    def render(self, record: Record) -> Prompt:
        user, made = self._user.told("user", record)
        if self._system is None:
            _asks_something(made, "prompt.user")
            return Prompt((user,), self._constraint)
        system = self._first
        if system is None:
            system, more = self._system.told("system", record)
            made = [*made, *more]
        _asks_something(made, "prompt.user")
        return Prompt((system, user), self._constraint)

    def most_usd(self, record: Record) -> Decimal | None:
        """The record's spending limit in US dollars; None here, since no column of a job sets
        one."""
        return None


def _asks_something(made: Sequence[str], where: str) -> None:
    """Raises `RecordError` if a record fills in only invisible text."""
    if made and not any(map(_shows, made)):
        raise RecordError(
            f"{where} would ask about nothing: the fields that it uses are empty in this record; "
            "fill them in, or add a rule for such records to `routes`",
            Reason.BAD_PROMPT,
        )


def _shows(text: str) -> bool:
    return any(c not in _UNSEEN and category(c)[0] not in "ZC" for c in text)


class LineRenderer(Renderer):
    """Renders each record of an OpenAI batch file to the prompt and sampling that it contains.

    Args:
        system: replaces the file's system messages.
        beyond: settings that the engine lacks; a record that uses one is an error.
    """

    def __init__(
        self, constraint: Constraint, system: str | None = None, beyond: Sequence[str] = ()
    ) -> None:
        self._system = Template(system, "prompt.system") if system is not None else None
        self._constraint = constraint
        self._beyond = beyond

    def render(self, record: Record) -> Prompt:
        given = record.fields["messages"]
        messages = [
            Message(
                m["role"],
                m["content"],
                m.get("cacheable", False),
                tuple(map(tuple, m.get("own", ()))),
            )
            for m in given
        ]
        _asks_something([m.content for m in messages if m.role != "system"], "`body.messages`")
        if self._system is not None:
            own = replace(self._system.message("system", record), cacheable=False)
            messages = [own, *(m for m in messages if m.role != "system")]
        sampling = sampling_of(record.fields["body"])
        for name in sampling.get("extra", {}):
            if name in self._beyond:
                problem = f"`body.{name}` is not supported by this engine; leave it out"
                raise RecordError(f"line {record.line}: {problem}", Reason.BAD_PROMPT)
        return Prompt(tuple(messages), self._constraint, sampling)

    def most_usd(self, record: Record) -> Decimal | None:
        return most_usd(record.fields)


def renderer_of(job: Job, *, system: str | None = None, beyond: Sequence[str] = ()) -> Renderer:
    """The job's renderer, with the given system message if any. ``beyond``: see `LineRenderer`."""
    constraint = job.answer.constraint()
    if job.prompt is None:
        return LineRenderer(constraint, system, beyond)
    system = job.prompt.system if system is None else system
    return Renderer(system, job.prompt.user, constraint)
