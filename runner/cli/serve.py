"""`surelocal serve`: the cascade behind an endpoint; a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner import events
from runner.cli import parameters
from runner.cli.group import log_format
from runner.cli.parameters import FOLDER
from runner.errors import MissingExtra
from runner.terminal import echo

if TYPE_CHECKING:
    from runner.job import Job


@click.command()
@parameters.job_file
@click.option("--run-dir", type=FOLDER, help="Where everything is kept; runs/NAME-served.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a key.")
@click.option("--port", default=8088, show_default=True, type=click.IntRange(0, 65535),
              help="Where it listens; 0 takes a free one.")  # fmt: skip
@click.option("--api-key-env", metavar="NAME", help="The variable with the key clients must send.")
@click.option("--max-concurrent", default=512, show_default=True, type=click.IntRange(min=1),
              help="More requests than these at once get 429.")  # fmt: skip
@click.option("--max-body", default=4 << 20, show_default=True, type=click.IntRange(min=1),
              help="A request's bytes at most.")  # fmt: skip
@click.option("--timeout", "timeout_s", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(min=0, min_open=True), help="For one request.")  # fmt: skip
@click.option("--on-unsure", default="error", show_default=True,
              type=click.Choice(["error", "answer"]),
              help="For an answer that may not stand, unless a request says.")  # fmt: skip
@parameters.overrides
@log_format
def serve(job_file: Path, run_dir: Path | None, overrides: tuple[str, ...], **given: Any) -> None:
    """Serves the job as OpenAI's /v1/chat/completions; a request is a record."""
    job = _load(job_file, overrides)
    try:
        from runner.serve import ServeOptions, serve_job
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "uvicorn", "prometheus_client"):
            raise MissingExtra(error.name, "serve") from None
        raise
    folder = run_dir or Path("runs") / f"{job.name}-served"
    options = ServeOptions(folder, **given)
    events.bind(job=job.name, run_dir=folder)
    serve_job(job, options, events.tell if events.structured() else partial(echo, err=True))
    echo(f"stopped; `surelocal status {folder}` says what was answered", err=True)


def _load(path: Path, overrides: tuple[str, ...]) -> Job:
    """The job. It need not have records, and without a `prompt` its requests bring theirs."""
    from runner.job.file import load_job
    from runner.pipeline.preflight import check_job

    file = load_job(path, overrides, served=True, strict=False)
    check_job(file, served=True)
    return file.job
