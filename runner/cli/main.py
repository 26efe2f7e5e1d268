"""The command line: thin, and quick to start (it imports no engine and no SDK).

Exit status: 0 done; 1 failed as a whole; 2 a mistake in what was asked; 3 done, but some records
are in error, waiting or in review; 130 stopped by Ctrl-C or SIGTERM, to be resumed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli import parameters
from runner.cli.common import SOME_UNFINISHED, finish, showing, watched
from runner.cli.doctor import doctor, models
from runner.cli.engines import engines, keep_loaded
from runner.cli.escalate import escalate
from runner.cli.group import Group, log_format
from runner.cli.init import init
from runner.cli.parameters import FILE, FOLDER
from runner.cli.quote import quote
from runner.cli.report import report
from runner.cli.review import review
from runner.cli.serve import serve
from runner.cli.status import status
from runner.errors import UsageError
from runner.events import tell
from runner.terminal import echo
from runner.types import Event, notice

if TYPE_CHECKING:
    from escalation.certify.labels import Label
    from runner.calibrate import Calibrated
    from runner.job import Job
    from runner.job.file import JobFile
    from runner.types import Record


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="surelocal")
@log_format
def main() -> None:
    """Runs batches of records through an open-weight model on your own machine, checks each
    answer, and pays a closed model only for the ones it is unsure of."""


@main.command()
@parameters.job_file
@click.option("--run-dir", type=FOLDER, help="Where everything is kept; runs/NAME by default.")
@click.option("--records", type=FILE, help="Other records than the job's.")
@click.option("-o", "--output", type=FILE, help="Where the results go; the run directory.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N records.")
@click.option("--new-records", is_flag=True, help="Go on, though most records are others now.")
@parameters.overrides
@click.option("--cluster", is_flag=True, help="The local half on all of a Ray cluster's GPUs.")
@click.option("--raw", is_flag=True, help="In CSV, no guard against formulas.")
@keep_loaded
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
@log_format
def run(  # noqa: PLR0913
    job_file: Path,
    run_dir: Path | None,
    records: Path | None,
    output: Path | None,
    limit: int | None,
    new_records: bool,
    overrides: tuple[str, ...],
    cluster: bool,
    raw: bool,
    keep_loaded: float | None,
    as_json: bool,
) -> None:
    """Runs the job; the same command again goes on where it stopped."""
    if keep_loaded is not None:
        overrides = (*overrides, f"local.keep_loaded={keep_loaded:g}")
    if raw:
        overrides = (*overrides, "output.raw=true")
    file = _load(job_file, overrides, records, ahead=None if cluster else (run_dir,))
    from runner import api
    from runner.job import Cluster
    from runner.observe.tracing import of_run

    job = file.job
    if cluster:
        job = job.model_copy(update={"cluster": job.cluster or Cluster()})
    display, progress = watched(job, _count(job, limit), run_dir or Path("runs") / job.name)
    where: dict[str, Any] = {"run_dir": run_dir, "output": output, "limit": limit}
    where["new_records"] = new_records
    began = time.monotonic()
    with display.watching(), of_run(job.name, job.local.model, display.say) as traced:
        done = api.run(job, progress=progress, say=display.say, **where)
        traced(done.summary)
    elapsed = time.monotonic() - began
    finish(done.run_dir, done.summary, done.path, as_json, elapsed, table=job.output.table)


@main.command()
@parameters.job_file
@parameters.overrides
def validate(job_file: Path, overrides: tuple[str, ...]) -> None:
    """Says every mistake in the job at once; needs no model."""
    file = _load(job_file, overrides, None)
    from runner.pipeline.preflight import check_thoroughly, first_look

    unseen = check_thoroughly(file)
    for said in first_look(file.job):
        echo(said, err=True)
    echo(f"{job_file} is fine", err=True)
    if unseen:
        echo(f"not checked: {unseen}", err=True)


@main.command()
@parameters.job_file
@click.option("--labels", type=FILE, help="People's labels, by record id.")
@click.option("--teacher", type=click.IntRange(min=1), help="Ask the closed model about N records.")
@click.option("--run-dir", type=FOLDER, help="Where the teacher's answers go; runs/NAME.")
@click.option("-o", "--output", type=FILE, help="Where it is saved; the job's calibration.")
@parameters.overrides
@click.option("--json", "as_json", is_flag=True, help="The certificates as JSON on stdout.")
@log_format
def calibrate(
    job_file: Path,
    labels: Path | None,
    teacher: int | None,
    run_dir: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Certifies a threshold from labels: the greatest share that may stay local at the error
    that the job names (confidence.target_error)."""
    if labels is None and teacher is None:
        raise UsageError("give --labels FILE (people's labels) or --teacher N (the closed model's)")
    job = _load(job_file, overrides, None, calibrated=False).job
    from runner.calibrate import calibrate_job
    from runner.pipeline.run import ask_teacher

    folder = run_dir or Path("runs") / job.name

    def ask(records: Sequence[Record]) -> Mapping[str, Label]:
        with showing(job, len(records), folder) as (progress, say):
            return ask_teacher(job, folder, records, progress, say)

    path = output or job.calibration_path()
    found = calibrate_job(job, path, labels, teacher or 0, ask, partial(showing, job))
    _tell_calibration(found, job, path)
    stated = found.trusted.stated() or []
    if as_json:
        echo(json.dumps(stated))
    nothing = any(one["threshold"] is None and not one["all_closed"] for one in stated)
    status = SOME_UNFINISHED if nothing else 0
    facts = {"certificates": stated, "saved": path, "exit_status": status}
    tell(notice(Event.FINISHED, "calibrated", **facts))
    if status:
        sys.exit(status)


def _tell_calibration(found: Calibrated, job: Job, path: Path) -> None:
    from runner.status.certificate_text import trust_words
    from runner.status.curves import certified_curve

    confidence = job.confidence.model_dump(mode="json")
    for line in trust_words(found.trusted.stated(), confidence):
        echo(line, err=True)
    if curve := certified_curve(found.calibration, job.confidence):
        shares = ", ".join(f"{target:.0%}: {share:.1%}" for target, share in curve)
        echo(f"Accepted at other targets, each certified on its own: {shares}.", err=True)
    echo(
        f"Calibration error of the confidence: {found.calibration.error_raw:.3f} raw, "
        f"{found.calibration.error_calibrated:.3f} calibrated (out of fold).",
        err=True,
    )
    if found.unused:
        echo(f"{found.unused:,} labels unused: their records never reach the model", err=True)
    echo(f"saved: {path}", err=True)


@main.command()
@parameters.run_dir
@click.option("-o", "--output", type=FILE, required=True, help=".jsonl, .csv or .parquet")
@click.option("--raw", is_flag=True, help="In CSV, no guard against formulas.")
def export(run_dir: Path, output: Path, raw: bool) -> None:
    """Writes the results again, in any format."""
    from runner.ledger import read_ledger
    from runner.pipeline.run import job_of
    from runner.results import export_file

    with read_ledger(run_dir) as ledger:
        count = export_file(ledger, job_of(run_dir, ledger), output, raw=raw)
    echo(f"{count:,} rows in {output}", err=True)


def _load(
    path: Path,
    overrides: tuple[str, ...],
    records: Path | None,
    *,
    calibrated: bool = True,
    ahead: tuple[Path | None] | None = None,
) -> JobFile:
    from runner.job.file import load_job
    from runner.pipeline.preflight import check_job

    if records is not None:
        overrides = (
            *overrides,
            f"records.path={json.dumps(str(records.absolute()), ensure_ascii=False)}",
        )
    file = load_job(path, overrides, strict=False)
    if ahead is not None and not file.mistakes:
        from runner.pipeline.load_engine import starting_ahead

        click.get_current_context().with_resource(starting_ahead(file.job, *ahead))
    check_job(file, calibrated=calibrated, answers=ahead is None)
    return file


def _count(job: Job, limit: int | None) -> int | None:
    """How many records a run has, if that is quick to find out."""
    from runner.records.source import job_count

    total = job_count(job)
    return total if total is None or limit is None else min(total, limit)


main.add_command(doctor)
main.add_command(engines)
main.add_command(escalate)
main.add_command(init)
main.add_command(models)
main.add_command(quote)
main.add_command(report)
main.add_command(review)
main.add_command(serve)
main.add_command(status)

if __name__ == "__main__":
    main()
