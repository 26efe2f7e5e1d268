"""A job for a file of the user's own: which columns it has, which names a record, which is asked
about. All of it is a guess from the first records, and said, so that it can be put right."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from runner.answering.prompts import in_template
from runner.errors import InputError
from runner.formats.openai_request import is_batch_line
from runner.records import column_names, likely_delimiter, read_records
from runner.records.looking import Looking

# The surest first: a phone number is called a number too.
_LIKE_AN_ID = (
    re.compile(r"(?i:(^|[^a-z])(id|uuid|guid|key)([^a-z]|$))|[a-z](ID|Id)$"),
    re.compile(r"(?i:(^|[^a-z])(no|nr|num|number|code)([^a-z]|$))|[a-z](No|Nr|Number|Code)$"),
)
# A file may hold a few numbers twice by mistake; the run then says which.
_NEARLY_ALL = 0.95
_TOGETHER = "\0"
_LONG = 64


@dataclass(frozen=True, slots=True)
class Guess:
    """What the first records show. ``different``: of ``seen`` records, so many have an id that no
    other has. ``text``: the column with the longest texts. ``notes``: what is to be known of the
    records besides."""

    columns: list[str]
    delimiter: str
    id: str
    seen: int
    different: int
    text: str
    notes: list[str]

    def told(self) -> list[str]:
        """The guesses in words, for whoever can put them right."""
        how_many = (
            "each its own" if self.different == self.seen else f"{self.different:,} different"
        )
        return [
            f"records.id: the column `{self.id}` ({how_many} in the first {self.seen:,} records)",
            f"prompt.user: the column `{self.text}`, which has the longest texts",
        ]


def guess(path: Path) -> Guess:
    """Looks at the first records of a CSV, JSONL or Parquet file.

    Raises:
        InputError: it cannot be read as records, or has no column at all.
    """
    columns, delimiter = _columns(path)
    looking = Looking()
    first = list(_fields(path, columns, delimiter, looking))
    if columns is None:
        columns = list(dict.fromkeys(name for fields in first for name in fields))
        if first and is_batch_line(first[0]):
            raise InputError(
                f"{path} is an OpenAI batch file, which says itself what is asked: name it in "
                "`records` of a job that has neither `prompt` nor `answer`"
            )
    if not any(columns):
        raise InputError(f"{path} holds no record to take the names of columns from")
    named = [name for name in columns if name]
    texts = {name: _texts(first, name) for name in named}
    own = _id(texts, len(first))
    others = [name for name in named if name != own] or [own]
    return Guess(
        columns, delimiter, own, len(first), len(set(texts[own])),
        max(others, key=lambda name: sum(map(len, texts[name]))), looking.told(),
    )  # fmt: skip


def own_job(folder: Path, path: Path, found: Guess) -> str:
    """The text of a job in ``folder`` over the file; it validates as it stands."""
    where = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    records = {"path": where, "id": found.id}
    if found.delimiter != ",":
        records["delimiter"] = found.delimiter
    given = ", ".join(f"{key}: {_quoted(value)}" for key, value in records.items())
    names = ", ".join(in_template(name).replace(" ", _TOGETHER) for name in found.columns)
    text = files(__package__).joinpath("own.yaml").read_text("utf-8")
    return Template(text).substitute(
        file=_visible(path.name),
        job=_visible(str(folder / "job.yaml")),
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "my-job",
        columns=textwrap.fill(
            _visible(names), 98, initial_indent="#   ", subsequent_indent="#   ",
            break_long_words=False, break_on_hyphens=False,
        ).replace(_TOGETHER, " "),
        records=f"{{{given}}}",
        user=_quoted("{{ " + in_template(found.text) + " }}"),
    )  # fmt: skip


def _columns(path: Path) -> tuple[list[str] | None, str]:
    """The columns that all records share, and what parts them."""
    delimiter = likely_delimiter(path)
    return column_names(path, delimiter=delimiter), delimiter


def _fields(
    path: Path, columns: Sequence[str] | None, delimiter: str, looking: Looking
) -> Iterator[Mapping[str, Any]]:
    first = next(filter(None, columns or ()), "id")
    records = read_records(path, first, delimiter=delimiter, say=looking.say)
    for record in looking.through(records):
        yield record.fields


def _texts(first: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """A column's values as text, without the empty ones; of objects and lists none."""
    values = (fields.get(name) for fields in first)
    others = (dict, list, bytes, type(None))
    return [text for v in values if not isinstance(v, others) and (text := str(v).strip())]


def _id(texts: Mapping[str, Sequence[str]], count: int) -> str:
    """A column that is called like an id and is one, or nearly; else one that is; else a first."""
    shares = {name: len(set(found)) / max(1, count) for name, found in texts.items()}
    sure, fair = ([name for name in texts if like.search(name)] for like in _LIKE_AN_ID)
    short = [name for name in texts if max(map(len, texts[name]), default=0) <= _LONG]
    wanted = [(names, enough) for names in (sure, fair) for enough in (1.0, _NEARLY_ALL)]
    for names, enough in (*wanted, (short, 1.0), (sure, 0.0), (fair, 0.0)):
        for name in names:
            if shares[name] >= enough:
                return name
    return next(iter(texts))


def _quoted(text: str) -> str:
    """As YAML in double quotes, which JSON's are too."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _visible(text: str) -> str:
    """In a comment, where a line's end would end it."""
    return "".join(c if c.isprintable() or c == _TOGETHER else " " for c in text)
