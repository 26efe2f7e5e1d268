"""The pilot: the local half of a run over the sampled records, in a folder that is gone afterwards.

It is `runner.pipeline.loop` itself, without the part that sends: no courier is started, and no
client of the closed model is made, key or not.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from escalation.certify.accepted import Trust
from escalation.certify.audit import chosen
from escalation.certify.scorer import Scorer
from escalation.policy import Router
from escalation.send.local_fallback import Division
from runner.job import Job
from runner.ledger import Ledger, open_ledger
from runner.pipeline import assemble
from runner.pipeline.answer import LocalAnswer, Observer
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.pipeline.loop import Pipeline, Progress
from runner.quote.drawing import Drawn
from runner.types import Answer, DecidedBy, Outcome, Record, Say, Status

Why = Literal["", "rule", "confidence", "audit"]
"""What sends a record to the closed model; "" where nothing does."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one sampled record. ``usd``: what the closed model would cost for it, by the
    run's own estimate. ``answer``: the local one, with its record, where there is one."""

    end: Literal["local", "template", "closed", "review", "error"]
    escalated: Why
    usd: Decimal
    answer: Answer | None = None
    record: Record | None = None
    may_leave: bool = True


@dataclass(frozen=True, slots=True)
class Pilot:
    """``size``: of the whole batch. ``loading_s``: until the model was there, 0 where none was
    needed; ``pilot_s``: from then on. ``window``: how many prompts the engine takes at once."""

    seen: Sequence[Seen]
    size: int
    loading_s: float
    pilot_s: float
    window: int
    can_escalate: bool

    @property
    def answered(self) -> int:
        """How many reached the local model and got an answer."""
        return sum(one.answer is not None for one in self.seen)


class _Heard(Observer):
    """Keeps every local answer, and how long the engine took to be there."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.loading_s = 0.0
        self.answers: dict[int, tuple[Record, Answer]] = {}

    @contextmanager
    def load(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.began = time.monotonic()
        self.loading_s = self.began - began

    def answered(self, record: Record, local: LocalAnswer) -> None:
        self.answers[record.position] = (record, local.answer)


def run_pilot(job: Job, drawn: Drawn, trusted: Trust, progress: Progress, say: Say) -> Pilot:
    """Answers the sampled records as a run would, and leaves nothing behind.

    Raises:
        UsageError: the model is not there, or gives no usable logprobs.
        RunFailed: the engine gave out.
    """
    assemble.local_model(job)
    heard = _Heard()
    half = assemble.local_half(job, trusted.calibration, heard)
    with (
        tempfile.TemporaryDirectory(prefix="surelocal-quote-") as folder,
        open_ledger(Path(folder)) as ledger,
    ):
        monitor = CertificateMonitor(ledger, trusted.rule, say=say)
        rules = assemble.rules(job, assemble.closed_side(job), monitor)
        pipeline = Pipeline(ledger, half, rules, progress)
        asyncio.run(pipeline.run(iter(drawn.records), None, None))
        pilot_s = time.monotonic() - heard.began
        if rules.division is not None:
            _divide(ledger, job, len(drawn.records) / drawn.size)
        seen = _seen(ledger, job, heard)
    return Pilot(seen, drawn.size, heard.loading_s, pilot_s, half.window, rules.can_escalate)


def _divide(ledger: Ledger, job: Job, share: float) -> None:
    """The pilot's share of the budget, divided as a run divides the whole; what it does not reach
    stands."""
    assert job.escalation is not None
    budget = job.escalation.budget_usd * Decimal(str(share))
    division = Division(ledger)
    while division.choose(budget - _ready(ledger)):
        pass


def _ready(ledger: Ledger) -> Decimal:
    waiting = (one for one in ledger.outcomes() if one.status is Status.WAITING)
    choosing = {position for position, *_ in ledger.choosing()}
    ready = (one.closed_estimate for one in waiting if one.position not in choosing)
    return sum(ready, Decimal(0))


def _seen(ledger: Ledger, job: Job, heard: _Heard) -> list[Seen]:
    router, audited = Router(job), _audited(job)
    unchosen = {position for position, *_ in ledger.choosing()}
    found = []
    for outcome in ledger.outcomes():
        position = outcome.position
        if position not in heard.answers or outcome.status is Status.ERROR:
            why: Why = "rule" if outcome.status is Status.WAITING else ""
            found.append(Seen(_end(outcome, why), why, outcome.closed_estimate))
            continue
        record, answer = heard.answers[position]
        may_leave = router.route(record).may_leave
        why = ""
        if outcome.status is Status.WAITING and position not in unchosen:
            why = "confidence"
        elif outcome.decided_by is DecidedBy.LOCAL and may_leave and audited(record):
            why = "audit"
        end = "local" if position in unchosen else _end(outcome, why)
        found.append(Seen(end, why, outcome.closed_estimate, answer, record, may_leave))
    return found


def _audited(job: Job) -> Callable[[Record], bool]:
    """Whether a run would have the closed model check an accepted answer that may leave."""
    sends = job.escalation is not None and job.confidence.certifies
    rate, seed = job.confidence.audit.rate if sends else 0.0, job.identity()["prompt"]
    return lambda record: chosen(record.id, rate, seed)


def _end(outcome: Outcome, why: Why) -> Literal["local", "template", "closed", "review", "error"]:
    if why in ("rule", "confidence"):
        return "closed"
    if outcome.status is Status.ERROR:
        return "error"
    if outcome.status is Status.REVIEW:
        return "review"
    return "template" if outcome.decided_by is DecidedBy.TEMPLATE else "local"


def rescored(seen: Seen, scorer: Scorer, text: str) -> Answer:
    """The local answer as another calibration judges it. ``text``: its prompt's last message."""
    assert seen.answer is not None and seen.record is not None
    return scorer.scored(seen.answer, scorer.signals(seen.answer, text, seen.record.id))
