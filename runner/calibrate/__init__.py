"""`surelocal calibrate`: the local model over labelled records, and what its word is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from escalation.certify.accepted import Trust
from escalation.certify.calibration import (
    PEOPLE,
    TEACHER,
    Calibration,
    Labelled,
    calibrate,
    training_share,
)
from escalation.certify.calibration_file import save
from escalation.certify.certificates import certified
from escalation.certify.labels import Label, read_labels
from escalation.certify.neighbour_support import FEWEST, Support
from escalation.certify.scorer import Judge, values_of, with_looks
from escalation.certify.thresholds import fewest_labels
from escalation.policy import Acceptance, strata_of, stratum
from runner.answering.check import Checker, of_fields
from runner.answering.extra_signals import looks_of
from runner.calibrate.sample import Drawn, draw_for_teacher, draw_labelled
from runner.errors import RecordError, UsageError
from runner.job import Job
from runner.pipeline import assemble
from runner.records.source import job_digest
from runner.types import Answer, Engine, Name, Prompt, Record

Ask = Callable[[Sequence[Record]], Mapping[str, Label]]
"""Sends records to the closed model and gives its answers by record id, as labels."""

Signals = dict[Name, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``unused`` counts labels of records that never reach the local model."""

    calibration: Calibration
    trusted: Trust
    unused: int


def calibrate_job(
    job: Job, output: Path, labels_path: Path | None, teacher: int, ask: Ask
) -> Calibrated:
    """Runs the local model over the labelled records, fits, certifies, and saves.

    ``teacher``: how many records the closed model is asked about. Without people's labels its
    answers are the labels; with them they show how often it is wrong itself.

    Raises:
        UsageError: the labels cannot be used, or are too few for the target.
    """
    if job.confidence.target is None and job.confidence.policy != "budget":
        raise UsageError("the job names no error to certify; set `confidence.target_error`")
    _overall_needs_both(job, labels_path, teacher)
    if labels_path is None:
        drawn = draw_for_teacher(job, teacher)
        _enough(job, len(drawn.labelled))
        labels, closed, unused = ask(drawn.labelled), {}, 0
        source = f"{TEACHER} to records that may leave" if drawn.passed_over else TEACHER
    else:
        labels = read_labels(labels_path, job.records.id, job.answer.constraint())
        drawn = draw_labelled(job, labels, labels_path)
        _enough(job, len(drawn.labelled))
        closed = dict(ask(drawn.sendable()[-teacher:])) if teacher else {}
        unused, source = len(labels) - len(drawn.labelled), PEOPLE
    made = _Maker(job, drawn, labels, closed).make(source)
    save(made, output)
    batch = made.batch[0] if made.batch is not None else None
    if job.confidence.target is None:
        return Calibrated(made, Trust(Acceptance(None), made), unused)
    return Calibrated(made, certified(made, job.confidence, batch), unused)


def _overall_needs_both(job: Job, labels_path: Path | None, teacher: int) -> None:
    if job.confidence.target_error_overall is not None and not (labels_path and teacher):
        raise UsageError(
            "`target_error_overall` counts the closed model's own mistakes: give people's labels "
            "and let it answer as many of them, with --labels FILE --teacher N"
        )


def _enough(job: Job, labelled: int) -> None:
    target, delta = job.confidence.target, job.confidence.delta
    if target is None:
        return
    fewest = fewest_labels(target, delta)
    training = training_share(labelled) if _trains(job) else 0
    if labelled - training < fewest:
        raise UsageError(
            f"{labelled:,} labels of records that reach the local model cannot certify an "
            f"error of {target:.2%}: even with none of them wrong it takes {fewest + training:,}"
        )


def _trains(job: Job) -> bool:
    return job.confidence.looks.any() or job.confidence.reference >= FEWEST


@dataclass(slots=True)
class _Seen:
    record: Record
    prompt: Prompt
    answer: Answer


class _Maker:
    """One calibration: all answers first, then what can only be said of them together."""

    def __init__(
        self, job: Job, drawn: Drawn, labels: Mapping[str, Label], closed: Mapping[str, Label]
    ) -> None:
        self._job = job
        self._drawn = drawn
        self._labels = labels
        self._closed = closed
        self._sampling = assemble.sampling(job)
        self._looks = looks_of(job, self._sampling)
        self._strata = strata_of(job.confidence)

    def make(self, source: str) -> Calibration:
        job = self._job
        seen, looked = asyncio.run(self._answers())
        support = self._support(seen)
        signals = {
            position: self._signals(one, support, looked.get(position))
            for position, one in seen.items()
        }
        made = calibrate(
            [self._labelled(record, seen, signals) for record in self._drawn.labelled],
            job=job.name,
            identity=job.identity(),
            source=source,
            made=datetime.now(UTC).date().isoformat(),
            support=support,
        )
        if not self._drawn.whole or self._looks is not None:
            return made
        rest = [*self._drawn.labelled[made.training :], *self._drawn.others]
        scores = [made.score(signals.get(record.position, {})) for record in rest]
        return replace(made, batch=(job_digest(job) or "", scores))

    async def _answers(self) -> tuple[dict[int, _Seen], dict[int, Signals]]:
        """By position: the answers of all records drawn, and the looks at the labelled ones."""
        job, constraint = self._job, self._job.answer.constraint()
        renderer = assemble.renderer(job)
        checker = Checker(constraint)
        engine: Engine = await asyncio.to_thread(assemble.engine, job)
        free = asyncio.Semaphore(engine.window)
        seen: dict[int, _Seen] = {}
        looked: dict[int, Signals] = {}

        async def one(record: Record, look: bool) -> None:
            async with free:
                try:
                    prompt = renderer.render(record)
                    completion = await engine.generate(prompt, prompt.sampling(self._sampling))
                except RecordError:
                    return
                answer = checker.check(completion)
                seen[record.position] = _Seen(record, prompt, answer)
                if look and self._looks is not None and answer.valid:
                    found = await self._looks.take(engine, record, prompt, answer)
                    looked[record.position] = found

        others = self._drawn.others
        if not self._drawn.whole:
            others = others[: job.confidence.reference if _trains(job) else 0]
        try:
            async with asyncio.TaskGroup() as tasks:
                for record in self._drawn.labelled:
                    tasks.create_task(one(record, True))
                for record in others:
                    tasks.create_task(one(record, False))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await engine.aclose()
        return seen, looked

    def _support(self, seen: Mapping[int, _Seen]) -> Support | None:
        references = [
            one
            for record in self._drawn.others
            if (one := seen.get(record.position)) is not None and one.answer.valid
        ][: self._job.confidence.reference]
        if len(references) < FEWEST or not training_share(len(self._drawn.labelled)):
            return None
        return Support.of(
            [one.record.id for one in references],
            [one.prompt.messages[-1].content for one in references],
            [values_of(one.answer) for one in references],
        )

    def _signals(self, one: _Seen, support: Support | None, looks: Signals | None) -> Signals:
        judge = Judge(support=support)
        signals = judge.signals(one.answer, one.prompt.messages[-1].content, one.record.id)
        return with_looks(signals, looks) if looks else signals

    def _labelled(
        self, record: Record, seen: Mapping[int, _Seen], signals: Mapping[int, Signals]
    ) -> Labelled:
        label, closed = self._labels.get(record.id), self._closed.get(record.id)
        own = signals.get(record.position, {})
        answered = own and label is not None
        wrong = label.wrong_fields(seen[record.position].answer.value) if answered and label else {}
        return Labelled(
            record_id=record.id,
            features=own,
            wrong=any(wrong.values()) if answered else True,
            wrong_fields=of_fields(wrong),
            stratum=stratum(self._strata, record) if self._strata is not None else "",
            closed_wrong=label.differs(closed) if closed is not None and label else None,
        )
