"""What is said, once, of records for which an expression may have been meant otherwise."""

from __future__ import annotations

from collections.abc import Callable

from runner.answering.prompts import Expression
from runner.templates.columns_read import compared_texts
from runner.types import Record

Note = Callable[[str], None]
MOST = 20
"""Sentences: behind these, more of the kind are not told."""


class Notices:
    """``note`` hears them; without one nothing is looked for."""

    def __init__(self, note: Note | None) -> None:
        self._note = note
        self._said: set[object] = set()
        self._texts: dict[str, list[tuple[str, set[str], dict[str, str]]]] = {}

    def near(self, expression: Expression, record: Record) -> None:
        """Of a text that is one of those it is compared with, but for case or spaces."""
        if self._note is None or len(self._said) >= MOST:
            return
        for column, texts, folded in self._compared(expression):
            value = record.fields.get(column)
            if not isinstance(value, str) or value in texts:
                continue
            meant = folded.get(value.strip().casefold())
            if meant is None:
                continue
            case = "upper" if meant.upper() == meant else "lower"
            name = column if column.isidentifier() else f"record[{column!r}]"
            self._say(
                (column, value),
                f"{expression.where} compares `{column}` with {meant!r}, and record {record.id} "
                f"has {value!r} there, which is another text; if it is the same, write "
                f"`{name}|trim|{case} == {getattr(meant.strip(), case)()!r}`",
            )

    def stays(self, record: Record, why: str) -> None:
        """Of a record that is kept on the machine though nothing plainly says so."""
        self._say("stays", f"record {record.id} stays on the machine, as others like it: {why}")

    def _compared(self, expression: Expression) -> list[tuple[str, set[str], dict[str, str]]]:
        known = self._texts.get(expression.where)
        if known is None:
            found = compared_texts(expression.text).items()
            known = [(c, texts, {t.strip().casefold(): t for t in texts}) for c, texts in found]
            self._texts[expression.where] = known
        return known

    def _say(self, what: object, sentence: str) -> None:
        if self._note is not None and what not in self._said:
            self._said.add(what)
            self._note(sentence)
