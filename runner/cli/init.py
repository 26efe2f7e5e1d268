"""`surelocal init`: a new job to start from; a part of `runner.cli.main`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from runner.cli.parameters import FILE, FOLDER
from runner.terminal import echo


@click.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--records", type=FILE, help="The file that the job is for.")
def init(folder: Path, records: Path | None) -> None:
    """Writes a new job to start from: with five records, or over a file of one's own."""
    from runner.starter import write_starter

    started = write_starter(folder, records)
    for path in started.paths:
        echo(f"wrote {path}", err=True)
    for guessed in started.guessed:
        echo(f"guessed {guessed}", err=True)
    for said in started.notes:
        echo(said, err=True)
    if records is not None:
        echo("fix what is wrong, and what is marked EXAMPLE", err=True)
    echo(f"next: surelocal validate {shlex.quote(str(folder / 'job.yaml'))}", err=True)
