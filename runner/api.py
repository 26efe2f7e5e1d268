"""A run from Python: a job and records in, a table of results out; the command line uses it too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union

from runner import private
from runner.errors import UsageError
from runner.job import Job
from runner.job.file import load_job, make_job
from runner.ledger import read_ledger
from runner.pipeline.loop import Progress
from runner.pipeline.run import RunRequest, run_job
from runner.records import file_format
from runner.results import row, write_results
from runner.status.summary import Summary
from runner.terminal import echo
from runner.types import Say

if TYPE_CHECKING:
    import pyarrow


class DataFrame(Protocol):
    """A pandas one."""

    columns: Any


Given = Union[Path, str, DataFrame, "pyarrow.Table", Iterable[Mapping[str, Any]]]
RECORDS = "records.parquet"
"""Where records that come as a table are kept, in the run directory."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to. ``path``: the results file, one row for each record in input order."""

    summary: Summary
    run_dir: Path
    path: Path

    def rows(self) -> Iterator[dict[str, Any]]:
        """The result rows, streamed: id, status, value, decided_by, reason, confidence, … ."""
        with read_ledger(self.run_dir) as ledger:
            yield from map(row, ledger.outcomes())

    def table(self) -> pyarrow.Table:
        """The same as one table; a ``value`` that is an object is JSON text in it."""
        import pyarrow.parquet

        path = self.run_dir / "results.parquet"
        if path != self.path:
            with read_ledger(self.run_dir) as ledger:
                write_results(ledger.outcomes(), path, "parquet")
        return pyarrow.parquet.read_table(path)


def run(  # noqa: PLR0913
    job: Job | Path | str | Mapping[str, Any],
    records: Given | None = None,
    *,
    run_dir: Path | str | None = None,
    output: Path | str | None = None,
    limit: int | None = None,
    new_records: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Result:
    """Runs a job, or goes on with it where its run directory stopped.

    Args:
        job: a job, a job file, or what one holds.
        records: other records than the job's: a file, a pandas or pyarrow table, or rows.
        run_dir: where everything is kept; ``runs/NAME`` by default.
        output: where the results go; the run directory by default.
        limit: only the first so many records.
        new_records: goes on although most of the records are others than the run directory's.
        progress: is kept up to date while it runs.
        say: hears what a person should know, such as an alarm, each as a `Notice`; `print`, which
            is what it does by default, shows its sentence.

    Raises:
        UsageError: the job, the records or the run directory are not as they must be.
        RunFailed: it could not go on; what was recorded is kept, and the same call goes on.
    """
    loaded = _job(job)
    folder = Path(run_dir) if run_dir is not None else Path("runs") / loaded.name
    if records is not None:
        loaded = _with_records(loaded, records, folder)
    path = output_path(loaded, folder, Path(output) if output is not None else None)
    request = RunRequest(loaded, folder, path, limit, new_records)
    summary = _outside_any_loop(lambda: run_job(request, progress or Progress(), say or echo))
    return Result(summary, folder, path)


def output_path(job: Job, folder: Path, given: Path | None = None) -> Path:
    """The given file, or the job's usual one in the run directory."""
    fmt = job.output.format
    ending = fmt if fmt in ("csv", "parquet") else "jsonl"
    usual = folder / (job.output.path or f"results.{ending}")
    file_format(given or usual, fmt)  # an ending that says nothing is refused before the run
    return given or usual


def _job(given: Job | Path | str | Mapping[str, Any]) -> Job:
    if isinstance(given, Job):
        return given
    return make_job(given) if isinstance(given, Mapping) else load_job(Path(given)).job


def _with_records(job: Job, given: Given, run_dir: Path) -> Job:
    """The job over these records. A table becomes a file: a later run goes on by it."""
    if isinstance(given, Path | str):
        path = Path(given).absolute()
    else:
        path = (run_dir / RECORDS).absolute()
        _keep(given, path, job.records.id)
    whole = job.records.model_dump(exclude={"url", "query", "format"}) | {"path": path}
    records = type(job.records).model_validate(whole)
    return job.model_copy(update={"records": records})


def _keep(given: Any, path: Path, id_column: str) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        if isinstance(given, pyarrow.Table):
            table = given
        elif hasattr(given, "columns"):
            table = pyarrow.Table.from_pandas(_flat(given, id_column), preserve_index=False)
        else:
            table = pyarrow.Table.from_pylist(list(given))
        private.folder(path.parent)
        pyarrow.parquet.write_table(table, private.made(path))
    except (
        pyarrow.ArrowException, TypeError, AttributeError, ValueError, OverflowError
    ) as error:  # fmt: skip
        raise UsageError(
            f"`records` is no table: {str(error).splitlines()[0]}; give a file, a pandas or "
            "pyarrow table, or a list of mappings with the same keys, each column of one kind "
            "(`astype(str)` makes a mixed one so)"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _flat(frame: Any, id_column: str) -> Any:
    """A pandas table whose index, where that names the records, is a column; periods as the texts
    that they show, and not as the numbers that they are kept as."""
    if id_column in (frame.index.names or ()) and id_column not in frame.columns:
        frame = frame.reset_index()
    periods = [name for name, kind in frame.dtypes.items() if str(kind).startswith("period")]
    return frame.astype(dict.fromkeys(periods, str)) if periods else frame


def _outside_any_loop(call: Callable[[], Summary]) -> Summary:
    """In a thread of its own where the caller's has an event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
