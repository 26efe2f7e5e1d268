"""The main job: a job and a run directory in, every record's outcome recorded, results out.

A run directory holds ``ledger.sqlite`` (everything), the results file, and nothing that cannot be
made again from the ledger. Running again goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from escalation.certify.labels import Label, label_of
from escalation.policy import Acceptance
from runner.errors import RunDirError, UsageError
from runner.formats.urls import has_login
from runner.interrupts import run_to_its_end
from runner.job import Job
from runner.ledger import Ledger, open_ledger
from runner.ledger.meta import Looks, Pace
from runner.pipeline import assemble
from runner.pipeline.both_halves import Stay, Work, both_halves
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.pipeline.decide import digest_of
from runner.pipeline.loop import Progress
from runner.results import deliver
from runner.status.summary import Summary, summarise
from runner.types import Event, Message, Outcome, Prompt, Reason, Record, Say, Status, notice


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one command asks for. ``output`` is where the results go."""

    job: Job
    run_dir: Path
    output: Path
    limit: int | None = None
    new_records: bool = False


def run_job(request: RunRequest, progress: Progress, say: Say) -> Summary:
    """Runs or resumes a job to its end and writes the results.

    Raises:
        UsageError: the job, the records or the run directory are not as they must be.
        RunFailed: it could not go on; what was recorded is kept and resumes.
    """
    began = time.monotonic()
    job = request.job
    closed = assemble.closed_side(job)
    trusted = assemble.trust(job)
    if closed is not None and closed.has_key:
        # A schema that the API cannot take is said now, not after a night's local work.
        closed.provider.request(Prompt((Message("user", ""),), job.answer.constraint()))
    assemble.local_model(job)
    with open_ledger(request.run_dir) as ledger:
        own(ledger, job, request.run_dir)
        _compare(ledger, request, say)
        records = assemble.records(job, request.limit, say)
        ledger.meta.certificate = trusted.stated()
        audits = closed is not None and closed.has_key
        monitor = assemble.monitor(job, trusted, ledger, say, audits=audits)
        half = assemble.local_half(job, trusted.calibration)
        work = Work(half, assemble.rules(job, closed, monitor, say), records)
        run_to_its_end(both_halves(ledger, work, request.run_dir, closed, progress, say), say)
        _keep_sums(ledger, progress, began)
        ledger.meta.audit = monitor.stated()
        deliver(ledger, job, request.output)
        return summarise(ledger)


def _compare(ledger: Ledger, request: RunRequest, say: Say) -> None:
    """Finds the records that the run directory knows among those that are given now.

    Raises:
        RunDirError: most of them are others, and nobody said that they are to be.
    """
    change = ledger.places.take(lambda: assemble.records(request.job), _digest)
    if change is None:
        return
    if change.new or change.changed or change.gone:
        facts = {"known": change.known, "new": change.new, "changed": change.changed}
        say(notice(Event.RECORDS_CHANGED, str(change), gone=change.gone, **facts))
    if not request.new_records:
        change.check(request.run_dir)
    ledger.places.keep()


def escalate_run(
    run_dir: Path,
    job: Job,
    output: Path,
    progress: Progress,
    say: Say,
    *,
    wait: bool = False,
    give_up: Sequence[str] = (),
) -> Summary:
    """Sends what waits in a run directory, and collects what batches brought; the local model is
    not needed for it. ``wait``: until the last batch is back. ``give_up``: batches that are waited
    for no more, which takes no key.

    Raises:
        RunDirError: the job has no closed model, or there is no key for it.
        UsageError: no such batch is open.
    """
    closed = assemble.closed_side(job)
    if closed is None:
        raise RunDirError(f"the job of {run_dir} has no `escalation`: there is nowhere to send to")
    if not closed.has_key and not give_up:
        raise RunDirError(
            f"nothing was sent: there is no API key; put one into {closed.settings.api_key_env}"
        )
    with open_ledger(run_dir, create=False) as ledger:
        if ledger.meta.login and not has_login(closed.settings.base_url):
            raise RunDirError(
                "nothing was sent: `escalation.base_url` was given with a login, which is written "
                "down nowhere; run the job again with its own file and this --run-dir: that sends "
                "what waits, too"
            )
        keep(ledger, job)
        monitor, stay = _monitor_of(job, ledger, say), Stay(wait, tuple(give_up))
        work = Work(assemble.local_half(job, None), assemble.rules(job, closed, monitor), iter(()))
        run_to_its_end(both_halves(ledger, work, run_dir, closed, progress, say, stay), say)
        if stated := monitor.stated():
            ledger.meta.audit = stated
        deliver(ledger, job, output)
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
    closed = assemble.closed_side(live(job))
    if closed is None or not closed.has_key:
        what = "no API key" if closed is not None else "no `escalation`"
        raise UsageError(f"--teacher: there is {what}, so there is no closed model to ask")
    half = assemble.local_half(job, None)
    with open_ledger(run_dir) as ledger:
        own(ledger, job, run_dir)
        rules = assemble.rules(job, closed, CertificateMonitor(ledger, Acceptance(None)))
        records = list(ledger.places.numbered(records))
        for record in _unasked(ledger, records, run_dir):
            prompt = half.renderer.render(record)
            outcome = Outcome(
                record.position, record.id, Status.WAITING, reason=Reason.TEACHER,
                closed_estimate=rules.cost.of_prompt(prompt),
            )  # fmt: skip
            ledger.put(outcome, _digest(record), held=record)
        ledger.commit()
        work = Work(half, rules, iter(()))
        run_to_its_end(both_halves(ledger, work, run_dir, closed, progress, say), say)
        wanted = {record.position for record in records}
        outcomes = [o for o in ledger.outcomes() if o.position in wanted]
        stopped = ledger.meta.stopped or "the cap, most likely"
    waiting = sum(outcome.status is Status.WAITING for outcome in outcomes)
    if waiting:
        raise UsageError(
            f"--teacher: {len(wanted) - waiting:,} of {len(wanted):,} records were answered, then "
            f"sending stopped ({stopped}); the answers are kept: fix that, or raise "
            "`escalation.budget_usd`, and run the same command again"
        )
    return {o.record_id: label_of(o.value) for o in outcomes if o.status is Status.DONE}


def live(job: Job) -> Job:
    """A sample is small, and somebody waits for it: it does not go in a batch."""
    if job.escalation is None:
        return job
    settings = job.escalation.model_copy(update={"lane": "live", "deadline": None})
    return job.model_copy(update={"escalation": settings})


def _unasked(ledger: Ledger, records: Sequence[Record], run_dir: Path) -> list[Record]:
    """The sampled records that the teacher was not asked about yet."""
    unasked = []
    for record in records:
        known, same = ledger.known(record.position), (record.id, _digest(record))
        if known is None:
            unasked.append(record)
        elif (known.record_id, known.digest) != same or not known.by_teacher:
            raise _sampled_too_late(run_dir, known.record_id)
    if unasked and not _undecided(ledger):
        raise _sampled_too_late(run_dir, "other records")
    return unasked


def _digest(record: Record) -> str:
    return digest_of(record.given)


def _sampled_too_late(run_dir: Path, what: str) -> RunDirError:
    return RunDirError(
        f"{run_dir} has decided {what} already: a sample must be drawn before the run; take a new "
        "--run-dir"
    )


def _monitor_of(job: Job, ledger: Ledger, say: Say) -> CertificateMonitor:
    """For audits that come back after the run; nothing more is accepted here."""
    try:
        trusted = assemble.trust(job)
    except UsageError:  # its calibration is gone, or another's by now: the run had its own
        return CertificateMonitor(ledger, Acceptance(None))
    return assemble.monitor(job, trusted, ledger, say, audits=False)


def _keep_sums(ledger: Ledger, progress: Progress, began: float) -> None:
    """Adds this run's further looks, and its pace (records, seconds, generated tokens, seconds
    since the model was there), to what former ones took."""
    now = time.monotonic()
    looks = Looks(progress.looked, progress.looks_changed, progress.looks_s)
    generating = now - (progress.generating_since or now)
    fresh = progress.seen - progress.resumed
    pace = Pace(fresh, now - began, progress.generated_tokens, generating)
    if looks.looked:
        ledger.meta.looks = (ledger.meta.looks or Looks()) + looks
    if pace.records:
        ledger.meta.pace = (ledger.meta.pace or Pace()) + pace


def job_of(run_dir: Path, ledger: Ledger) -> Job:
    """The job that a run directory was begun with."""
    written = ledger.meta.job
    if written is None:
        raise RunDirError(f"{run_dir} holds no job yet: its first run never came that far")
    return Job.model_validate(written)


def own(ledger: Ledger, job: Job, run_dir: Path) -> None:
    """Claims a new run directory for the job, or refuses one that is another job's."""
    identity = job.identity()
    known = ledger.meta.identity
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
    ledger.meta.identity = identity
    keep(ledger, job)


def _undecided(ledger: Ledger) -> bool:
    """Whether no outcome depends on a confidence yet."""
    reasons = (
        Reason.TEACHER, Reason.CLOSED_INVALID, Reason.REPLY_LOST, Reason.REJECTED, Reason.REDACTION,
        Reason.RECORD_TOO_DEAR,
    )  # fmt: skip
    return ledger.reading.has_only(reasons)


def keep(ledger: Ledger, job: Job) -> None:
    """Writes the job down, for `job_of` and for the summary."""
    closed = job.escalation
    login = "escalation.base_url" if closed is not None and has_login(closed.base_url) else None
    if login or ledger.meta.login:
        ledger.meta.login = login
    ledger.meta.job = job.written()
