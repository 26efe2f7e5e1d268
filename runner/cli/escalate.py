"""`surelocal escalate`: what waits is sent, and batches are collected; a part of
`runner.cli.main`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli import parameters
from runner.cli.common import finish, watched
from runner.cli.group import log_format
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.job import Job


@click.command()
@parameters.run_dir
@click.option("--budget", type=str, help="Another spending cap, in US dollars.")
@click.option(
    "--guard", type=click.Choice(["on", "off"]), help="off: also what a broken local model left."
)
@click.option("--wait", is_flag=True, help="Until the last batch is back, or surely lost.")
@click.option(
    "--give-up",
    metavar="BATCH",
    multiple=True,
    help="Wait no more for this batch: what may be billed stays spent, its records go to review.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON summary on stdout.")
@log_format
def escalate(
    run_dir: Path,
    budget: str | None,
    guard: str | None,
    wait: bool,
    give_up: tuple[str, ...],
    as_json: bool,
) -> None:
    """Sends what waits for the closed model, and collects what its batches brought; needs its key,
    and no local model."""
    from runner.api import output_path
    from runner.ledger import read_ledger
    from runner.pipeline.run import escalate_run, job_of

    with read_ledger(run_dir) as ledger:
        job = job_of(run_dir, ledger)
        waiting = ledger.count_waiting()
    if budget is not None and job.escalation is not None:
        job = _with_budget(job, budget)
    if guard is not None and job.escalation is not None:
        settings = job.escalation.model_copy(update={"guard": guard})
        job = job.model_copy(update={"escalation": settings})
    display, progress = watched(job, waiting, run_dir)
    output = output_path(job, run_dir)
    with display.watching():
        summary = escalate_run(
            run_dir, job, output, progress, display.say, wait=wait, give_up=give_up
        )
    finish(run_dir, summary, output, as_json, table=job.output.table)


def _with_budget(job: Job, budget: str) -> Job:
    from pydantic import ValidationError

    from runner.job import Escalation

    try:
        given = job.escalation.model_dump() if job.escalation else {}
        settings = Escalation.model_validate(given | {"budget_usd": budget})
    except ValidationError:
        raise UsageError(f"--budget takes US dollars, 5.00 say, not {budget!r}") from None
    return job.model_copy(update={"escalation": settings})
