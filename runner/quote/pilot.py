"""The pilot: the local half of a run over the sampled records, in a folder that is gone afterwards.

It is `runner.pipeline.loop` itself, without the part that sends: no courier is started, and no
client of the closed model is made, key or not.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal

from escalation.certify.accepted import Trust
from escalation.certify.audit import chosen
from escalation.certify.scorer import Judge
from escalation.policy import Router, Rule
from escalation.send.local_fallback import Division
from runner.job import Job
from runner.ledger import Ledger, open_ledger
from runner.ledger.trail import OUTCOME
from runner.pipeline import assemble
from runner.pipeline.certificate_monitor import Say, Watch
from runner.pipeline.loop import Answering, Pipeline, Progress
from runner.quote.drawing import Drawn
from runner.types import Answer, DecidedBy, Engine, Outcome, Record, Status

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


@dataclass(slots=True)
class _Clock:
    began: float = field(default_factory=time.monotonic)
    loading_s: float = 0.0
    window: int = 1

    def loading(self, answering: Answering) -> Answering:
        """The same, with the time of loading its engine taken."""

        def load(say: Say) -> Engine:
            began = time.monotonic()
            engine = answering.engine(say)
            self.began = time.monotonic()
            self.loading_s = self.began - began
            self.window = engine.window
            return engine

        return replace(answering, engine=load)


class _Listening(Watch):
    """Keeps every local answer, and the audit's choice, which a run would send as well."""

    def __init__(self, ledger: Ledger, rule: Rule, job: Job, say: Say) -> None:
        super().__init__(ledger, rule, say=say)
        sends = job.escalation is not None and job.confidence.certifies
        self._rate = job.confidence.audit.rate if sends else 0.0
        self._seed = job.identity()["prompt"]
        self.heard: dict[int, tuple[Record, Answer]] = {}
        self.audited: set[int] = set()

    def saw(self, record: Record, answer: Answer) -> None:
        self.heard[record.position] = (record, answer)

    def chosen(self, record: Record) -> bool:
        if chosen(record.id, self._rate, self._seed):
            self.audited.add(record.position)
        return False


def run_pilot(job: Job, drawn: Drawn, trusted: Trust, progress: Progress, say: Say) -> Pilot:
    """Answers the sampled records as a run would, and leaves nothing behind.

    Raises:
        UsageError: the model is not there, or gives no usable logprobs.
        RunFailed: the engine gave out.
    """
    assemble.local_model(job)
    clock = _Clock()
    answering = assemble.answering(job, assemble.closed_side(job), trusted.calibration)
    with (
        tempfile.TemporaryDirectory(prefix="surelocal-quote-") as folder,
        open_ledger(Path(folder)) as ledger,
    ):
        watch = _Listening(ledger, trusted.rule, job, say)
        pipeline = Pipeline(ledger, clock.loading(answering), watch, progress)
        asyncio.run(pipeline.run(iter(drawn.records), None, None))
        ended = time.monotonic()
        if answering.division is not None:
            _divide(ledger, job, len(drawn.records) / drawn.size)
        seen = _seen(ledger, job, watch)
    return Pilot(
        seen, drawn.size, clock.loading_s, ended - clock.began, clock.window, answering.can_escalate
    )


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


def _seen(ledger: Ledger, job: Job, watch: _Listening) -> list[Seen]:
    router, notes = Router(job), _scores(ledger)
    unchosen = {position for position, *_ in ledger.choosing()}
    found = []
    for outcome in ledger.outcomes():
        position = outcome.position
        why = _why(outcome, watch, unchosen)
        heard = watch.heard.get(position)
        if heard is None or outcome.status is Status.ERROR:
            found.append(Seen(_end(outcome, why), why, outcome.closed_estimate))
            continue
        record, answer = heard
        if position in notes:  # further looks may have changed it
            answer = replace(answer, score=notes[position])
        end = "local" if position in unchosen else _end(outcome, why)
        may_leave = router.route(record).may_leave
        found.append(Seen(end, why, outcome.closed_estimate, answer, record, may_leave))
    return found


def _scores(ledger: Ledger) -> Mapping[int, float]:
    """The calibrated scores that the decisions were made by."""
    notes = ((position, json.loads(note)) for position, note in ledger.trail.notes(OUTCOME))
    return {position: note["score"] for position, note in notes if note.get("score") is not None}


def _why(outcome: Outcome, watch: _Listening, unchosen: set[int]) -> Why:
    position = outcome.position
    if outcome.status is Status.WAITING and position not in unchosen:
        return "confidence" if position in watch.heard else "rule"
    return "audit" if position in watch.audited else ""


def _end(outcome: Outcome, why: Why) -> Literal["local", "template", "closed", "review", "error"]:
    if why in ("rule", "confidence"):
        return "closed"
    if outcome.status is Status.ERROR:
        return "error"
    if outcome.status is Status.REVIEW:
        return "review"
    return "template" if outcome.decided_by is DecidedBy.TEMPLATE else "local"


def rescored(seen: Seen, judge: Judge, text: str) -> Answer:
    """The local answer as another calibration judges it. ``text``: its prompt's last message."""
    assert seen.answer is not None and seen.record is not None
    return judge.judged(seen.answer, judge.signals(seen.answer, text, seen.record.id))
