"""What commands share: who watches a run, where its results go, and how a command about it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import events
from runner.terminal import console, echo
from runner.types import Event, notice

if TYPE_CHECKING:
    from rich.console import Console

    from runner.job import Job
    from runner.observe.display import Display
    from runner.observe.display_log import EventDisplay
    from runner.observe.meter import Counted
    from runner.status.summary import Summary
    from runner.types import Say

SOME_UNFINISHED = 3


def watched(
    job: Job, total: int | None, run_dir: Path | None = None
) -> tuple[Display | EventDisplay, Counted]:
    """Who shows a run of ``total`` records (None: nobody knows), on stderr, and what it reads."""
    from runner.observe.meter import Counted, Meter

    progress = Counted()
    meter = Meter(progress, total)
    if events.structured():
        from runner.observe.display_log import EventDisplay

        events.bind(job=job.name, **({"run_dir": run_dir} if run_dir is not None else {}))
        return EventDisplay(meter), progress
    from runner.observe.display import Display

    closed = job.escalation
    batches = closed is not None and closed.lane == "batch"
    name = closed.model if closed is not None else None
    return Display(stderr(), meter, job.name, name, batches=batches), progress


@contextmanager
def showing(
    job: Job, total: int | None, run_dir: Path | None = None
) -> Iterator[tuple[Counted, Say]]:
    """The same while the block is at work: its progress, and who says something to its user."""
    display, progress = watched(job, total, run_dir)
    with display.watching():
        yield progress, display.say


def stderr() -> Console:
    return console(stderr=True)


def finish(
    run_dir: Path,
    summary: Summary,
    output: Path,
    as_json: bool,
    elapsed_s: float | None = None,
    more: Mapping[str, Any] | None = None,
    table: str | None = None,
) -> None:
    """Shows what the run came to, and what may follow; ends with status 3 where some of its records
    are unfinished."""
    from runner.status.summary import next_steps

    status = SOME_UNFINISHED if summary.unfinished else 0
    whole = {**summary.as_json(), "results": str(output), **(more or {})}
    steps = next_steps(summary, run_dir)
    if events.structured():
        done = f"{summary.records - summary.unfinished:,} of {summary.records:,} records are done"
        took = None if elapsed_s is None else round(elapsed_s, 3)
        facts = {"table": table, "seconds": took, "next": steps, "exit_status": status}
        events.tell(notice(Event.FINISHED, done, **whole, **facts))
    else:
        _show(summary, output, elapsed_s, table)
        for step in steps:
            echo(step, err=True)
    if as_json:
        echo(json.dumps(whole))
    if status:
        sys.exit(status)


def _show(summary: Summary, output: Path, elapsed_s: float | None, table: str | None) -> None:
    from runner.observe.display import show_summary

    shown = stderr()
    show_summary(shown, summary, elapsed_s)
    where = f"{output} and the table {table}" if table else str(output)
    shown.print(f"results: {where}", highlight=False, markup=False, soft_wrap=True)
    entries, head = summary.trail
    trail = f"audit trail: {entries:,} entries, the last {head}"
    shown.print(trail, highlight=False, markup=False, soft_wrap=True)
