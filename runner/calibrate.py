"""`localfirst calibrate`: the local model over labelled records, and what its confidence is worth.

Only records that would reach the local model count: a certificate speaks of what it would accept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from escalation.calibration import Calibration, Labelled, calibrate
from escalation.policy import Router
from escalation.risk import Certified, fewest_labels
from runner import build
from runner.check import Checker
from runner.errors import InputError, RecordError, UsageError
from runner.job import Job
from runner.labels import Label, read_labels
from runner.prompts import Renderer
from runner.types import Engine, Record, Route

MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Calibrated:
    """``unused`` counts labels of records that never reach the local model (routed elsewhere, or
    unreadable); ``stated`` is the certificate as JSON."""

    calibration: Calibration
    certificate: Certified
    stated: dict[str, Any]
    unused: int
    path: Path


def calibrate_job(job: Job, labels_path: Path, output: Path) -> Calibrated:
    """Runs the local model over the labelled records, fits, certifies, and saves.

    Raises:
        UsageError: the labels cannot be used, or are too few for the target.
    """
    target = job.confidence.target_error
    if target is None:
        raise UsageError("the job names no error to certify; set `confidence.target_error`")
    constraint = job.answer.constraint()
    labels = read_labels(labels_path, job.records.id, constraint)
    records = list(_labelled_records(job, labels, labels_path))
    fewest = fewest_labels(target, job.confidence.delta)
    if len(records) < fewest:
        raise UsageError(
            f"{len(records):,} labels of records that reach the local model cannot certify an "
            f"error of {target:.2%}: even with none of them wrong it takes {fewest:,}"
        )
    labelled = asyncio.run(_answers(job, records, labels))
    made = datetime.now(UTC).date().isoformat()
    calibration = calibrate(job.name, job.identity(), labelled, made)
    trusted = build.certified(calibration, job.confidence)
    try:
        calibration.save(output)
    except OSError as error:
        raise UsageError(f"cannot save the calibration to {output}: {error.strerror}") from None
    assert trusted.certificate is not None
    stated = trusted.stated() or {}
    return Calibrated(calibration, trusted.certificate, stated, len(labels) - len(records), output)


def _labelled_records(job: Job, labels: Mapping[str, Label], path: Path) -> Iterator[Record]:
    router = Router(job)
    unknown = dict(labels)
    for record in build.records(job):
        if unknown.pop(record.id, None) is None or record.problem is not None:
            continue
        try:
            if router.route(record).route is Route.LOCAL:
                yield record
        except RecordError:
            continue
    if unknown:
        named = [f"{i} (line {label.line})" for i, label in list(unknown.items())[:MOST_NAMED]]
        more = f" and {len(unknown) - MOST_NAMED:,} more" if len(unknown) > MOST_NAMED else ""
        raise InputError(
            f"{path} labels records that {job.records_path()} does not hold: "
            f"{', '.join(named)}{more}"
        )


async def _answers(job: Job, records: list[Record], labels: Mapping[str, Label]) -> list[Labelled]:
    constraint = job.answer.constraint()
    renderer = Renderer(job.prompt.system, job.prompt.user, constraint)
    checker = Checker(constraint)
    sampling = build.sampling(job)
    engine = await asyncio.to_thread(build.engine, job)
    free = asyncio.Semaphore(engine.window)

    async def one(record: Record) -> Labelled:
        async with free:
            return await _answer(engine, record, labels[record.id])

    async def _answer(engine: Engine, record: Record, label: Label) -> Labelled:
        try:
            completion = await engine.generate(renderer.render(record), sampling)
        except RecordError:
            return Labelled(-1.0, True, {})
        answer = checker.check(completion)
        if not answer.valid or answer.confidence is None:
            return Labelled(-1.0, True, {})
        wrong = label.wrong_fields(answer.value)
        fields = {
            name: (score, wrong[name])
            for name, score in answer.field_confidence.items()
            if name in wrong
        }
        return Labelled(answer.confidence, any(wrong.values()), fields)

    try:
        return await asyncio.gather(*(one(record) for record in records))
    finally:
        await engine.aclose()
