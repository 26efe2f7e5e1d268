"""`surelocal review export` and `review import`: a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

import getpass
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli import parameters
from runner.cli.common import finish
from runner.cli.parameters import FILE
from runner.errors import UsageError
from runner.terminal import echo

if TYPE_CHECKING:
    from runner.job import Job

_COUNT = click.IntRange(min=1)


@click.group()
def review() -> None:
    """What waits for a person: out as a file, and back in with the decisions."""


@review.command()
@parameters.run_dir
@click.argument("file", type=FILE)
@click.option("--audit", type=_COUNT, help="Instead: N accepted local answers at random, to check.")
@click.option("--sample", type=_COUNT, help="Instead: N records at random, to label for calibrate.")
@click.option("--seed", default="", help="Any text; another one draws another sample.")
def export(run_dir: Path, file: Path, audit: int | None, sample: int | None, seed: str) -> None:
    """Writes what is in review to FILE (.csv or .jsonl), with a place for each decision."""
    if audit is not None and sample is not None:
        raise UsageError("give --audit or --sample, not both: each is a file of its own")
    from runner.pipeline.assemble import records
    from runner.review import Draw, export_reviews

    number = audit or sample
    draw = None if number is None else Draw(number, accepted=audit is not None, seed=seed)
    job = _job(run_dir)
    count = export_reviews(run_dir, job, records(job), file, draw)
    echo(f"{count:,} records in {file}", err=True)
    if count:
        echo(_next(run_dir, file, labels=sample is not None), err=True)


def _next(run_dir: Path, file: Path, *, labels: bool) -> str:
    path = shlex.quote(str(file))
    if labels:
        return f"decide every row, then: surelocal calibrate JOB.yaml --labels {path}"
    return f"decide, then: surelocal review import {shlex.quote(str(run_dir))} {path}"


@review.command("import")
@parameters.run_dir
@click.argument("file", type=FILE)
@click.option("--by", help="Who decided; the login name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
def import_(run_dir: Path, file: Path, by: str | None, as_json: bool) -> None:
    """Takes the decisions in FILE back; with a mistake in it, none of them."""
    from runner.api import output_path
    from runner.review import import_reviews

    job, who = _job(run_dir), _who(by)
    results = output_path(job, run_dir)
    imported, summary = import_reviews(run_dir, job, file, who, results)
    counts = imported.counts()
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    echo(f"{file}: {told or 'no rows'}", err=True)
    if imported.alarm:
        echo(imported.alarm, err=True)
    finish(run_dir, summary, results, as_json, more={"review": counts})


def _job(run_dir: Path) -> Job:
    from runner.ledger import read_ledger
    from runner.pipeline.run import job_of

    with read_ledger(run_dir) as ledger:
        return job_of(run_dir, ledger)


def _who(given: str | None) -> str:
    try:
        who = getpass.getuser() if given is None else given
    except (KeyError, OSError):
        who = ""  # a container's user may have no name
    if not who.strip():
        raise UsageError("who decided? Say it with --by NAME")
    return who.strip()
