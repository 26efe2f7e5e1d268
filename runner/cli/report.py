"""`surelocal report`: a run as one page; a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli import parameters
from runner.cli.parameters import FILE
from runner.terminal import echo


@click.command()
@parameters.run_dir
@click.option("-o", "--output", type=FILE, help="RUN_DIR/report.html by default.")
def report(run_dir: Path, output: Path | None) -> None:
    """Writes the run as one HTML page, which needs nothing else to be read."""
    from runner.report import write_report

    written = write_report(run_dir, output or run_dir / "report.html")
    echo(f"report: {written}", err=True)
