"""The main job: a job and a run directory in, every record's outcome recorded, results out.

A run directory holds ``ledger.sqlite`` (everything), the results file, and nothing that cannot be
made again from the ledger. Running again goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from escalation.closed import ClosedSide
from escalation.courier import JOURNAL
from escalation.courier_client import Courier, former_replies
from escalation.escalate import Escalator
from escalation.policy import Acceptance
from escalation.spend import day_cap
from runner import build
from runner.errors import RunDirError, UsageError
from runner.job import Job, digest
from runner.labels import Label, label_of
from runner.ledger import Ledger, open_ledger
from runner.pipeline import DIGEST_LENGTH, Answering, Pipeline, Progress
from runner.results import write_results
from runner.summary import Summary, summarise
from runner.types import Message, Outcome, Prompt, Reason, Record, Status
from runner.watch import Watch

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one command asks for. ``output`` is where the results go."""

    job: Job
    run_dir: Path
    output: Path
    limit: int | None = None


def run_job(request: RunRequest, progress: Progress, say: Say) -> Summary:
    """Runs or resumes a job to its end and writes the results.

    Raises:
        UsageError: the job, the records or the run directory are not as they must be.
        RunFailed: it could not go on; what was recorded is kept and resumes.
    """
    job = request.job
    closed = build.closed_side(job)
    trusted = build.trust(job)
    if closed is not None and _has_key(closed):
        # A schema that the API cannot take is said now, not after a night's local work.
        closed.provider.request(Prompt((Message("user", ""),), job.answer.constraint()))
    build.local_model(job)
    with open_ledger(request.run_dir) as ledger:
        _own(ledger, job, request.run_dir)
        records = islice(build.records(job), request.limit)
        ledger.set_meta("certificate", json.dumps(trusted.stated()))
        audits = closed is not None and _has_key(closed)
        half = LocalHalf(
            build.answering(job, closed, trusted.calibration),
            build.watch(job, trusted, ledger, say, audits=audits),
            records,
        )
        asyncio.run(_both_halves(ledger, half, request.run_dir, closed, progress, say))
        _keep_looks(ledger, progress)
        ledger.set_meta("audit", half.watch.stated())
        write_results(ledger.outcomes(), request.output, job.output.format)
        return summarise(ledger)


def escalate_run(run_dir: Path, job: Job, output: Path, progress: Progress, say: Say) -> Summary:
    """Sends what waits in a run directory; the local model is not needed for it.

    Raises:
        RunDirError: the job has no closed model, or there is no key for it.
    """
    closed = build.closed_side(job)
    if closed is None:
        raise RunDirError(f"the job of {run_dir} has no `escalation`: there is nowhere to send to")
    if not _has_key(closed):
        raise RunDirError(
            f"nothing was sent: there is no API key; put one into {closed.settings.api_key_env}"
        )
    with open_ledger(run_dir, create=False) as ledger:
        _keep(ledger, job)
        _send_waiting(ledger, job, run_dir, closed, progress, say)
        write_results(ledger.outcomes(), output, job.output.format)
        return summarise(ledger)


def ask_teacher(
    job: Job, run_dir: Path, records: Sequence[Record], progress: Progress, say: Say
) -> dict[str, Label]:
    """Sends records to the closed model, within the cap; its answers are these records' results in
    the run directory. A record that it had no usable answer to is left out.

    Raises:
        UsageError: there is no closed model, no key, or not money enough for all of them.
        RunDirError: the run directory has decided some of these records already.
    """
    closed = build.closed_side(job)
    if closed is None or not _has_key(closed):
        what = "no API key" if closed is not None else "no `escalation`"
        raise UsageError(f"--teacher: there is {what}, so there is no closed model to ask")
    answering = build.answering(job, closed, None)
    with open_ledger(run_dir) as ledger:
        _own(ledger, job, run_dir)
        for record in _unasked(ledger, records, run_dir):
            prompt = answering.renderer.render(record)
            outcome = Outcome(
                record.position, record.id, Status.WAITING, reason=Reason.TEACHER,
                closed_estimate=answering.estimate(prompt, 0),
            )  # fmt: skip
            ledger.put(outcome, _mark(record), held=record)
        ledger.commit()
        _send_waiting(ledger, job, run_dir, closed, progress, say)
        wanted = {record.position for record in records}
        outcomes = [o for o in ledger.outcomes() if o.position in wanted]
        stopped = ledger.meta("stopped") or "the cap, most likely"
    waiting = sum(outcome.status is Status.WAITING for outcome in outcomes)
    if waiting:
        raise UsageError(
            f"--teacher: {len(wanted) - waiting:,} of {len(wanted):,} records were answered, then "
            f"sending stopped ({stopped}); the answers are kept: mend that, or raise "
            "`escalation.budget_usd`, and run the same command again"
        )
    return {o.record_id: label_of(o.value) for o in outcomes if o.status is Status.DONE}


def _unasked(ledger: Ledger, records: Sequence[Record], run_dir: Path) -> list[Record]:
    """The sampled records that the teacher was not asked about yet."""
    unasked = []
    for record in records:
        known = ledger.known(record.position)
        if known is None:
            unasked.append(record)
        elif (known.record_id, known.digest) != (record.id, _mark(record)) or not known.by_teacher:
            raise _sampled_too_late(run_dir, known.record_id)
    if unasked and not _undecided(ledger):
        raise _sampled_too_late(run_dir, "other records")
    return unasked


def _mark(record: Record) -> str:
    return digest(dict(record.fields))[:DIGEST_LENGTH]


def _sampled_too_late(run_dir: Path, what: str) -> RunDirError:
    return RunDirError(
        f"{run_dir} has decided {what} already: a sample must be drawn before the run; take a new "
        "--run-dir"
    )


def _send_waiting(
    ledger: Ledger, job: Job, run_dir: Path, closed: ClosedSide, progress: Progress, say: Say
) -> None:
    """Sends what waits; no local model is loaded for it."""
    half = LocalHalf(build.answering(job, closed, None), Watch(ledger, Acceptance(None)), iter(()))
    asyncio.run(_both_halves(ledger, half, run_dir, closed, progress, say))


def _keep_looks(ledger: Ledger, progress: Progress) -> None:
    """Adds this run's further looks to what former ones took."""
    if progress.looked:
        known = json.loads(ledger.meta("looks") or "[0, 0, 0]")
        new = (progress.looked, progress.looks_changed, progress.looks_s)
        ledger.set_meta("looks", json.dumps([a + b for a, b in zip(known, new, strict=True)]))


def job_of(run_dir: Path, ledger: Ledger) -> Job:
    """The job that a run directory was begun with."""
    text = ledger.meta("job")
    if text is None:
        raise RunDirError(f"{run_dir} holds no job yet: its first run never came that far")
    return Job.model_validate(json.loads(text))


def _own(ledger: Ledger, job: Job, run_dir: Path) -> None:
    """Claims a new run directory for the job, or refuses one that is another job's."""
    identity = job.identity()
    known = json.loads(ledger.meta("identity") or "null")
    if known is not None and known != identity:
        differs = [name for name in identity if identity[name] != known.get(name)]
    else:
        differs = []
    if _undecided(ledger):
        # Only the teacher's sample is in it: that is what the calibration is made from.
        differs = [name for name in differs if name not in ("confidence", "calibration")]
    if differs:
        raise RunDirError(
            f"{run_dir} was begun with another job: {', '.join(f'`{d}`' for d in differs)} "
            "differ; put the job back as it was, or take a new --run-dir"
        )
    ledger.set_meta("identity", json.dumps(identity))
    _keep(ledger, job)


def _undecided(ledger: Ledger) -> bool:
    """Whether no outcome depends on a confidence yet."""
    reasons = (
        Reason.TEACHER, Reason.CLOSED_INVALID, Reason.REPLY_LOST, Reason.REJECTED, Reason.REDACTION,
        Reason.RECORD_TOO_DEAR,
    )  # fmt: skip
    places = ",".join("?" * len(reasons))
    decided = f"SELECT 1 FROM outcomes WHERE reason NOT IN ({places}) LIMIT 1"
    return not ledger.query(decided, reasons)


def _keep(ledger: Ledger, job: Job) -> None:
    """Writes the job down, for `job_of` and for the summary."""
    whole = job.model_dump(mode="json", by_alias=True) | {"folder": str(job.folder)}
    ledger.set_meta("job", json.dumps(whole, ensure_ascii=False))


def _has_key(closed: ClosedSide) -> bool:
    """Whether there is what it takes to send: a server of one's own may ask for no key."""
    name = closed.settings.api_key_env
    return name is None or bool(os.environ.get(name))


@dataclass(frozen=True, slots=True)
class LocalHalf:
    """What `_both_halves` runs locally: over these records, under this watch."""

    answering: Answering
    watch: Watch
    records: Iterator[Record]


async def _both_halves(
    ledger: Ledger,
    half: LocalHalf,
    run_dir: Path,
    closed: ClosedSide | None,
    progress: Progress,
    say: Say,
) -> None:
    pipeline = Pipeline(ledger, half.answering, half.watch, progress)
    if closed is None:
        await pipeline.run(half.records, None, None)
        return

    day = day_cap(closed, ledger, run_dir)
    escalator = Escalator(ledger, closed, progress.resettle, half.watch.verdict, day)
    progress.money = lambda: (escalator.budget.spent, escalator.budget.cap)
    patience = closed.settings.timeout_s + 10
    await _settle_open_calls(ledger, escalator, run_dir, patience)
    sends = _has_key(closed)
    if not sends:
        say(
            f"no key in {closed.settings.api_key_env}: nothing will be sent; what would go to "
            f"{closed.settings.model} will wait"
        )
    try:
        async with Courier(run_dir, closed.settings) if sends else nullcontext() as courier:
            try:
                await pipeline.run(half.records, escalator if sends else None, courier)
            except BaseException:
                if under_way := len(ledger.attempts.open_attempts()):
                    say(f"stopping once the paid calls under way ({under_way}) are booked")
                raise
    finally:
        # Cut short by Ctrl-C or a failure, calls under way are still paid for: book them.
        await _settle_open_calls(ledger, escalator, run_dir, patience)
    if not sends:
        ledger.explain_waiting(Reason.NO_KEY)
    ledger.set_meta("stopped", escalator.problem or "")


async def _settle_open_calls(
    ledger: Ledger, escalator: Escalator, run_dir: Path, patience_s: float
) -> None:
    if ledger.attempts.open_attempts():
        escalator.reconcile(await former_replies(run_dir, patience_s))
    escalator.settle_day()
    (run_dir / JOURNAL).unlink(missing_ok=True)  # all of it is in the ledger now
