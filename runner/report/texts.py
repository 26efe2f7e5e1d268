"""Single records for the page, redacted as for the closed model.

A page is shared more easily than a ledger, so a record that may not leave the machine, or cannot be
redacted completely, is shown without its text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from escalation.policy import Router
from escalation.redact import Redactor
from runner.answering.prompts import renderer_of
from runner.errors import RecordError
from runner.job import Job
from runner.types import Message, Prompt, Record

LONGEST = 600
KEPT = "Not shown: this record may not leave the machine."
GONE = "Not shown: the records have changed or are missing."
UNSAFE = "Not shown: the record cannot be redacted completely."
BROKEN = "Not shown: the prompt cannot be rendered for this record."


@dataclass(frozen=True, slots=True)
class Shown:
    """A record to show. If ``text`` is None, ``why_not`` says why, and there are no answers."""

    name: str
    text: str | None
    answers: tuple[str, ...] = ()
    why_not: str | None = None


class Texts:
    """Shows records of one job."""

    def __init__(self, job: Job) -> None:
        render = renderer_of(job).render
        self._render = render
        self._router = Router(job)
        self._redactor = Redactor(job.privacy.redact, job.privacy.patterns, render)
        self._names = Redactor(job.privacy.redact, job.privacy.patterns)
        self._private = bool(job.privacy.redact)

    def shown(self, record: Record, *answers: Any) -> Shown:
        """The prompt's user message and these answers, everything redacted together."""
        texts = [as_text(answer) for answer in answers]
        try:
            if not self._router.route(record).may_leave:
                return self._without_text(record, KEPT)
            prompt = self._render(record)
        except RecordError:
            return self._without_text(record, BROKEN)
        more = tuple(Message("user", text) for text in (record.id, *texts))
        whole = replace(prompt, messages=(*prompt.messages, *more))
        try:
            left = self._redactor.redact(whole, self._redactor.placeholders(record)).messages
        except RecordError:
            return self.unseen(record.position, record.id, UNSAFE)
        text, name, *said = (m.content for m in left[len(prompt.messages) - 1 :])
        return Shown(name, shortened(text), tuple(map(shortened, said)))

    def unseen(self, position: int, record_id: str, why_not: str = GONE) -> Shown:
        """Of a record that is not there any more: its id could be what is to be redacted."""
        private = self._private or why_not == UNSAFE
        name = place(position) if private else self._name(Record(position, record_id, {}, 0))
        return Shown(name, None, why_not=why_not)

    def _without_text(self, record: Record, why_not: str) -> Shown:
        return Shown(self._name(record), None, why_not=why_not)

    def _name(self, record: Record) -> str:
        """Its id, redacted; or its place, where that would not be complete."""
        prompt = Prompt((Message("user", record.id),))
        try:
            left = self._names.redact(prompt, self._names.placeholders(record))
        except RecordError:
            return place(record.position)
        return left.messages[0].content


def place(position: int) -> str:
    return f"record {position + 1:,}"


def as_text(answer: Any) -> str:
    if answer is None or isinstance(answer, str):
        return answer or ""
    if isinstance(answer, dict) and all(not isinstance(v, dict | list) for v in answer.values()):
        return ", ".join(f"{name}: {_plain(value)}" for name, value in answer.items())
    return json.dumps(answer, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shortened(text: str) -> str:
    """Cut after redaction: a value cut in two would not be recognised."""
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"
