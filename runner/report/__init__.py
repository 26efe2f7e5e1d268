"""A run as one HTML page: who decided what, by what right, for how much, and where to look next.

Every number is the ledger's, or the calibration's that the run was begun with. Whatever grows with
the records is summed by SQLite; only labels and the few records that are shown are ever held.
"""

from __future__ import annotations

from pathlib import Path

from runner import private
from runner.errors import RunFailed
from runner.ledger import read_ledger
from runner.report.facts import gather
from runner.report.page import render

__all__ = ["write_report"]


def write_report(run_dir: Path, output: Path) -> Path:
    """Writes the report of a run directory, also while a run goes on in it.

    Raises:
        RunDirError: it is no run directory, or holds no job yet.
        RunFailed: the page cannot be written.
    """
    with read_ledger(run_dir) as ledger, ledger.one_moment():
        page = render(gather(ledger, run_dir))
    beside = output.with_name(output.name + ".tmp")
    try:
        # Undecodable bytes of a record are lone surrogates, which no file can hold.
        private.made(beside).write_text(page, encoding="utf-8", errors="replace")
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunFailed(f"cannot write the report to {output}: {error.strerror}") from None
    return output
