"""`surelocal quote`: a pilot on a few hundred random records → what the whole job would cost, how
long it would take here, and which error could be certified. Nothing is ever sent, key or not."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from escalation.certify.accepted import Trust
from escalation.certify.calibration import Calibration
from escalation.certify.calibration_file import load
from escalation.policy import Acceptance
from runner.calibrate import calibrate_job
from runner.errors import UsageError
from runner.job import Job
from runner.pipeline import assemble
from runner.pipeline.loop import Progress
from runner.quote.certifying import Curve, curve_of
from runner.quote.counts import Counted, counted
from runner.quote.drawing import draw
from runner.quote.money import Caching, Way, caching, ways
from runner.quote.pace import Time, time_of
from runner.quote.pilot import run_pilot
from runner.types import Event, Say, notice

__all__ = ["Quote", "quote_job"]

# Labels too few for the job's own target are no mistake here: the curve says what they do for.
_ANY_TARGET = 0.5


@dataclass(frozen=True, slots=True)
class Quote:
    """``pilot`` records were drawn out of ``size``. ``uncalibrated``: the job is to certify an
    error, and there is no calibration yet, so a run would accept nothing."""

    job: Job
    size: int
    pilot: int
    counts: list[Counted]
    ways: list[Way]
    cache: Caching | None
    batch_share: Decimal
    time: Time
    curve: Curve | None
    uncalibrated: bool


def quote_job(job: Job, number: int, labels: Path | None, progress: Progress, say: Say) -> Quote:
    """Runs the local model over ``number`` random records, and over the labelled ones where
    ``labels`` is given.

    Raises:
        UsageError: the job, the records or the labels are not as they must be.
        RunFailed: the engine gave out.
    """
    with tempfile.TemporaryDirectory(prefix="surelocal-quote-") as folder:
        if labels is not None:
            job = _calibrated(job, labels, Path(folder) / "calibration.json", say)
        calibration = _calibration(job)
        trusted = _trust(job, calibration)
        drawn = draw(job, number)
        pilot = run_pilot(job, drawn, trusted, progress, say)
        closed = assemble.closed_side(job)
        cache = caching(closed, drawn.records)
        judged = job.answer.text is None and pilot.answered > 0
        return Quote(
            job=job,
            size=drawn.size,
            pilot=len(drawn.records),
            counts=counted(pilot),
            ways=ways(pilot.seen, pilot.size, closed, cache),
            cache=cache,
            batch_share=closed.price.batch if closed is not None else Decimal(1),
            time=time_of(pilot, job.local.gpu_usd_per_hour),
            curve=curve_of(job, pilot, calibration) if judged else None,
            uncalibrated=job.confidence.certifies and calibration is None,
        )


def _calibrated(job: Job, labels: Path, path: Path, say: Say) -> Job:
    """The job with a calibration made by these labels, as `surelocal calibrate` makes it."""
    if job.confidence.target_error_overall is not None:
        raise UsageError(
            "--labels: `target_error_overall` needs the closed model's own answers too, and a "
            "quote pays for none; make the calibration with `surelocal calibrate --labels FILE "
            "--teacher N`, which the quote then uses"
        )
    first = "calibrating by the labels first: the local model answers these records too"
    say(notice(Event.CALIBRATING, first))
    update = {"calibration": path, "target_error": _ANY_TARGET, "threshold": None}
    aimed = job.confidence.model_copy(update=update | {"policy": "error"})
    job_at_it = job.model_copy(update={"confidence": aimed})
    # Not in the pilot's own progress, which counts the pilot's records.
    shown = nullcontext((Progress(), say))
    calibrate_job(job_at_it, path, labels, 0, lambda records: {}, lambda number: shown)
    confidence = job.confidence.model_copy(update={"calibration": path})
    return job.model_copy(update={"confidence": confidence})


def _calibration(job: Job) -> Calibration | None:
    """The job's, also where its rule is a bare threshold; None where there is none yet."""
    path = job.calibration_path()
    if not path.is_file():
        return None
    try:
        return load(path, job.identity())
    except UsageError:
        if job.confidence.certifies or job.confidence.policy == "budget":
            raise
        return None  # another job's, which a run of this one would not look at


def _trust(job: Job, calibration: Calibration | None) -> Trust:
    """What a run would accept; nothing, where its calibration is still to be made."""
    if job.confidence.certifies and calibration is None:
        return Trust(Acceptance(None, job.confidence.below == "escalate"))
    return assemble.trust(job)
