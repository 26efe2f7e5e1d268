"""Notices, each given once, about expressions that may not match a record as intended."""

from __future__ import annotations

from typing import Any

from runner.answering.prompts import Expression
from runner.templates.columns_read import compared_texts
from runner.types import Event, Record, Say, notice

MOST = 20
"""The most sentences given; further ones are dropped."""


class Notices:
    """Passes notices to ``say``; without it, does nothing."""

    def __init__(self, say: Say | None) -> None:
        self._say = say
        self._said: set[object] = set()
        self._texts: dict[str, list[tuple[str, set[str], dict[str, str]]]] = {}

    def near(self, expression: Expression, record: Record) -> None:
        """Reports a text that differs from one it is compared with only in case or spaces."""
        if self._say is None or len(self._said) >= MOST:
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
            self._once(
                (column, value),
                Event.NEARLY_EQUAL,
                f"{expression.where} compares `{column}` with {meant!r}, and record {record.id} "
                f"has {value!r} there, which is another text; if it is the same, write "
                f"`{name}|trim|{case} == {getattr(meant.strip(), case)()!r}`",
                record_id=record.id, where=expression.where, column=column,
            )  # fmt: skip

    def stays(self, expression: Expression, record: Record, why: str) -> None:
        """Reports a record that is kept on the machine though no expression plainly says so."""
        said = f"record {record.id} stays on the machine, as others like it: {why}"
        facts = {"record_id": record.id, "where": expression.where}
        self._once("stays", Event.STAYS_LOCAL, said, **facts)

    def _compared(self, expression: Expression) -> list[tuple[str, set[str], dict[str, str]]]:
        known = self._texts.get(expression.where)
        if known is None:
            found = compared_texts(expression.text).items()
            known = [(c, texts, {t.strip().casefold(): t for t in texts}) for c, texts in found]
            self._texts[expression.where] = known
        return known

    def _once(self, what: object, event: Event, sentence: str, **fields: Any) -> None:
        if self._say is not None and what not in self._said:
            self._said.add(what)
            self._say(notice(event, sentence, **fields))
