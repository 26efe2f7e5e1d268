"""The job's rules for a request, which need not have all the columns that the job was written for.

A field that a rule looks at and the request does not name is empty, as an empty cell is. Not so
where a rule keeps records on the machine: what cannot be looked at does not leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from jinja2 import Environment, meta

from escalation.policy import Routed, Router
from runner.formats.openai_request import most_usd
from runner.job import Job
from runner.types import Reason, Record, Route

_ASKS_ITSELF = re.compile(r"\bdefined\b|\bdefault\(|\bd\(")


class ServedRouter(Router):
    """Also keeps what its own request does not allow to leave, at a ``max_escalation_usd`` of 0."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        keep = job.privacy.keep_local
        self._asked_for = _names(rule.when for rule in job.routes)
        self._asked_for |= _names([keep] if keep else [])
        self._keeping = _names([keep] if keep else [])
        self._keeping |= _names(rule.when for rule in job.routes if rule.keep_local)

    def route(self, record: Record) -> Routed:
        given = record.fields
        empty = dict.fromkeys(self._asked_for - given.keys(), "")
        routed = super().route(replace(record, fields={**empty, **given}))
        if not (self._keeping - given.keys() or most_usd(given) == 0):
            return routed
        if routed.route is Route.CLOSED:
            return Routed(Route.REVIEW, Reason.KEPT_LOCAL, False, rule=routed.rule)
        return replace(routed, may_leave=False)


def _names(expressions: Iterable[str]) -> set[str]:
    """The fields that these look at; none of an expression that sees to missing ones itself."""
    environment = Environment(autoescape=False)
    found: set[str] = set()
    for text in expressions:
        if not _ASKS_ITSELF.search(text):
            found |= meta.find_undeclared_variables(environment.parse("{{ " + text + " }}"))
    return found - {"record", *environment.globals}
