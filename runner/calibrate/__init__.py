"""`surelocal calibrate`: the local model over labelled records, and what its word is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
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
from escalation.certify.scorer import Scorer, values_of, with_looks
from escalation.certify.thresholds import fewest_labels
from escalation.policy import Acceptance, strata_of, stratum
from runner.answering.check import of_fields
from runner.calibrate.asking import Asking
from runner.calibrate.kept import Kept
from runner.calibrate.sample import Drawn, draw_for_teacher, draw_labelled
from runner.errors import UsageError
from runner.interrupts import run_to_its_end
from runner.job import Job
from runner.pipeline import assemble
from runner.pipeline.answer import LocalAnswer
from runner.pipeline.progress import Progress
from runner.records.source import job_digest
from runner.types import Name, Record, Say

Ask = Callable[[Sequence[Record]], Mapping[str, Label]]
"""Sends records to the closed model and gives its answers by record id, as labels."""

Shown = Callable[[int], AbstractContextManager[tuple[Progress, Say]]]
"""Shows, while it is open, how far the local model is with so many records."""

Signals = dict[Name, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``unused`` counts labels of records that never reach the local model."""

    calibration: Calibration
    trusted: Trust
    unused: int


def calibrate_job(
    job: Job, output: Path, labels_path: Path | None, teacher: int, ask: Ask, shown: Shown
) -> Calibrated:
    """Runs the local model over the labelled records, fits, certifies, and saves. Cut short, the
    same call goes on where it was.

    ``teacher``: how many records the closed model is asked about. Without people's labels its
    answers are the labels; with them they show how often it is wrong itself.

    Raises:
        UsageError: the labels cannot be used, or are too few for the target.
        RunFailed: the engine gave out; what was answered is kept.
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
    maker = _Maker(job, drawn, labels, closed)
    kept = maker.ask(output, shown)
    made = maker.make(source)
    save(made, output)
    kept.remove()
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


class _Maker:
    """One calibration: all answers first, then what can only be said of them together."""

    def __init__(
        self, job: Job, drawn: Drawn, labels: Mapping[str, Label], closed: Mapping[str, Label]
    ) -> None:
        self._job = job
        self._drawn = drawn
        self._labels = labels
        self._closed = closed
        self._strata = strata_of(job.confidence)
        self._answers: Mapping[int, LocalAnswer] = {}

    def ask(self, output: Path, shown: Shown) -> Kept:
        """Asks the local model about all records drawn; where its answers are kept."""
        job, labelled, others = self._job, self._drawn.labelled, self._drawn.others
        if not self._drawn.whole:
            others = others[: job.confidence.reference if _trains(job) else 0]
        with (
            shown(len(labelled) + len(others)) as (progress, say),
            Kept(job, output, say) as kept,
        ):
            asking = Asking(assemble.local_half(job, None), kept, progress, say)
            run_to_its_end(asking.ask(labelled, others), say)
        self._answers = asking.answers
        return kept

    def make(self, source: str) -> Calibration:
        """Of what was answered."""
        job = self._job
        support = self._support()
        signals = {
            record.position: self._signals(record, local, support)
            for record in (*self._drawn.labelled, *self._drawn.others)
            if (local := self._answers.get(record.position)) is not None
        }
        made = calibrate(
            [self._labelled(record, signals) for record in self._drawn.labelled],
            job=job.name,
            identity=job.identity(),
            source=source,
            made=datetime.now(UTC).date().isoformat(),
            support=support,
        )
        if not self._drawn.whole or job.confidence.looks.any():
            return made
        rest = [*self._drawn.labelled[made.training :], *self._drawn.others]
        scores = [made.score(signals.get(record.position, {})) for record in rest]
        return replace(made, batch=(job_digest(job) or "", scores))

    def _support(self) -> Support | None:
        references = [
            (record, local)
            for record in self._drawn.others
            if (local := self._answers.get(record.position)) is not None and local.answer.valid
        ][: self._job.confidence.reference]
        if len(references) < FEWEST or not training_share(len(self._drawn.labelled)):
            return None
        return Support.of(
            [record.id for record, _ in references],
            [local.text for _, local in references],
            [values_of(local.answer) for _, local in references],
        )

    def _signals(self, record: Record, local: LocalAnswer, support: Support | None) -> Signals:
        signals = Scorer(support=support).signals(local.answer, local.text, record.id)
        return with_looks(signals, local.found) if local.found else signals

    def _labelled(self, record: Record, signals: Mapping[int, Signals]) -> Labelled:
        label, closed = self._labels.get(record.id), self._closed.get(record.id)
        own = signals.get(record.position, {})
        answered = own and label is not None
        value = self._answers[record.position].answer.value if answered else None
        wrong = label.wrong_fields(value) if answered and label else {}
        return Labelled(
            record_id=record.id,
            features=own,
            wrong=any(wrong.values()) if answered else True,
            wrong_fields=of_fields(wrong),
            stratum=stratum(self._strata, record) if self._strata is not None else "",
            closed_wrong=label.differs(closed) if closed is not None and label else None,
        )
