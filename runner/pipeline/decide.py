"""A record to its outcome: a mistake, an answer without a model, or one with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from escalation.limits.local_guard import Guard
from escalation.policy import Router
from runner.errors import RecordError
from runner.job import digest
from runner.ledger import Ledger
from runner.pipeline.answer import LocalAnswer, LocalHalf
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.pipeline.closed_cost import ClosedCost
from runner.pipeline.outcomes import Case, Outcomes, Stakes
from runner.types import Outcome, Reason, Record, Route

_LENGTH = 16


def digest_of(fields: Mapping[str, Any]) -> str:
    """What a record's fields are known by in the ledger."""
    return digest(dict(fields))[:_LENGTH]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a job decides by. ``too_long``: `runner.job.local.Local.too_long`. ``division``: the
    budget is divided over the whole batch instead of by a threshold."""

    router: Router
    monitor: CertificateMonitor
    cost: ClosedCost
    can_escalate: bool
    too_long: str = "error"
    division: Stakes | None = None


class Decider:
    """Brings single records to their outcomes, in any number at once. ``count`` hears of each,
    ``on_waiting`` rings when one comes to wait for the closed model, and ``guard`` hears of every
    local answer."""

    def __init__(
        self,
        ledger: Ledger,
        half: LocalHalf,
        rules: Rules,
        guard: Guard | None,
        count: Callable[[Outcome], None] = lambda outcome: None,
        on_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._half = half
        self._rules = rules
        self._outcomes = Outcomes(
            ledger, count, on_waiting, rules.monitor, guard,
            can_escalate=rules.can_escalate, division=rules.division,
        )  # fmt: skip
        self._flying: set[str] = set()

    def mistake(self, record: Record) -> str | None:
        """Why it is no record of its own."""
        if record.problem is not None:
            return record.problem
        if record.id in self._flying or self._ledger.is_double(record.id, record.position):
            return f"line {record.line}: the id {record.id} is already another record's"
        return None

    def without_model(self, record: Record, digest: str) -> Case | None:
        """Settles a record that needs no model; otherwise it is a case for `with_model`."""
        case, rules = Case(record, digest), self._rules
        if mistake := self.mistake(record):
            self._outcomes.failed(case, mistake, Reason.BAD_RECORD)
            return None
        try:
            with self._half.observer.route() as told:
                routed = rules.router.route(record)
                told(routed)
            if routed.route is Route.LOCAL:
                return Case(record, digest, routed)
            # Only what is to be sent must make a prompt; a person may have what makes none.
            sent = routed.route is Route.CLOSED
            prompt = self._half.renderer.render(record) if sent else None
        except RecordError as error:
            self._outcomes.failed(case, str(error), error.reason)
            return None
        cost = rules.cost.of_prompt(prompt) if prompt is not None else rules.cost.of_record(record)
        case = Case(record, digest, routed, cost)
        if routed.route is Route.TEMPLATE:
            self._outcomes.by_template(case)
        elif routed.route is Route.CLOSED:
            self._outcomes.route_closed(case)
        else:
            self._outcomes.set_aside(case)
        return None

    def begin(self, case: Case) -> None:
        """From here on the case's id is taken; `with_model` follows."""
        self._flying.add(case.record.id)

    async def with_model(self, case: Case) -> LocalAnswer | None:
        """Settles a case by the local model; its answer, where it has one."""
        record, rules, local = case.record, self._rules, None
        try:
            local = await self._half.answer(record, rules.monitor.rule)
            rules.monitor.saw(record, local.answer)
            cost = rules.cost.of_prompt(local.prompt, local.answer.output_tokens)
            with self._half.observer.decide():
                self._outcomes.answered(replace(case, cost=cost), local.answer)
        except RecordError as error:
            if error.reason is Reason.TOO_LONG and rules.too_long != "error":
                case = replace(case, cost=rules.cost.of_record(record))
                self._outcomes.too_long(case, rules.too_long)
            else:
                self._outcomes.failed(case, str(error), error.reason)
        finally:
            self._flying.discard(record.id)
        return local
