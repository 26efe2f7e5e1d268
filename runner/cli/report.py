"""`surelocal report`: a run as one page; a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

from pathlib import Path

import click

from runner.terminal import echo

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("run_dir", type=_FOLDER)
@click.option("-o", "--output", type=_FILE, help="RUN_DIR/report.html by default.")
def report(run_dir: Path, output: Path | None) -> None:
    """Writes the run as one HTML page, which needs nothing else to be read."""
    from runner.report import write_report

    written = write_report(run_dir, output or run_dir / "report.html")
    echo(f"report: {written}", err=True)
