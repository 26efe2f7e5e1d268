"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

job_file = click.argument("job_file", metavar="JOB.yaml", type=FILE)
run_dir = click.argument("run_dir", type=FOLDER)
overrides = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Change a job key."
)
