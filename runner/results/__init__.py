"""Results out: one row per record in input order, into a file and, if the job has one, a table."""

from __future__ import annotations

from pathlib import Path

from runner.job import Job
from runner.job.records import BATCH
from runner.ledger import Ledger
from runner.records import file_format
from runner.results.kept import Checked, Noting, check
from runner.results.openai_batch import batch_lines
from runner.results.rows import COLUMNS as COLUMNS
from runner.results.rows import CONFIDENCE_DIGITS as CONFIDENCE_DIGITS
from runner.results.rows import Seal, unsealed, write_rows
from runner.results.rows import row as row
from runner.results.rows import write_results as write_results
from runner.results.table import write_table


def deliver(ledger: Ledger, job: Job, path: Path) -> int:
    """Writes all results where the job wants them; returns how many there are.

    Raises:
        RunFailed: the file or the table cannot be written; nothing of the run is lost by it.
    """
    noting = Noting(ledger, path, job.output.format, job.output.raw)
    count = _write(ledger, job, path, noting.fmt, raw=noting.raw, seal=noting.begin)
    noting.done()
    if job.output.table is not None:
        write_table(ledger.outcomes(), job)
    return count


def check_files(ledger: Ledger, job: Job) -> Checked:
    """Whether the results files are as runs wrote them."""
    return check(ledger, lambda path, fmt, raw: _write(ledger, job, path, fmt, raw=raw))


def export_file(ledger: Ledger, job: Job, path: Path, *, raw: bool = False) -> int:
    """The same into this file alone, in the format that its ending says. ``raw``: CSV without the
    guard against formulas, whatever the job says."""
    return _write(ledger, job, path, "auto", raw=raw or job.output.raw)


def _write(
    ledger: Ledger, job: Job, path: Path, fmt: str, *, raw: bool, seal: Seal = unsealed
) -> int:
    kind = file_format(path, fmt)
    # What came as a batch file goes as one, unless another format is asked for.
    again = fmt == "auto" and kind == "jsonl" and job.records.format == BATCH
    if again or kind == BATCH:
        return write_rows(batch_lines(ledger, job), path, "jsonl", seal=seal)
    return write_results(ledger.outcomes(), path, kind, raw=raw, seal=seal)
