"""`surelocal quote`: what a job will cost and take; a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

import json
from pathlib import Path

import click

from runner.cli import parameters
from runner.cli.common import watched
from runner.cli.group import log_format
from runner.cli.parameters import FILE
from runner.events import tell
from runner.terminal import console, echo
from runner.types import Event, notice

PILOT = 300


@click.command()
@parameters.job_file
@click.option("--pilot", metavar="N", type=click.IntRange(min=2), default=PILOT, show_default=True,
              help="Records to try.")  # fmt: skip
@click.option("--labels", type=FILE, help="People's labels, by record id: certifies by them.")
@click.option("-o", "--output", type=FILE, help="Also as a Markdown file to send.")
@parameters.overrides
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout instead.")
@log_format
def quote(
    job_file: Path,
    pilot: int,
    labels: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Runs N random records through the local model and says what all of them would cost, how
    long they take here, and what error can be certified. Sends nothing."""
    from runner.job.file import load_job
    from runner.pipeline.preflight import check_job
    from runner.quote import quote_job
    from runner.quote.show import as_json as in_json
    from runner.quote.show import show, write_markdown

    file = load_job(job_file, overrides, strict=False)
    check_job(file, calibrated=False)
    display, progress = watched(file.job, pilot)
    with display.watching():
        found = quote_job(file.job, pilot, labels, progress, display.say)
    if output is not None:
        write_markdown(found, output)
        echo(f"quote: {output}", err=True)
    whole = in_json(found)
    tell(notice(Event.FINISHED, "quoted", quote=whole, exit_status=0))
    if as_json:
        echo(json.dumps(whole))
    else:
        show(console(), found)
