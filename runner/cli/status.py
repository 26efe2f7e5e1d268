"""`surelocal status`: counts, what left the machine, a record's history, and whether all of it is
as it was written; a part of `runner.cli.main`, and as thin."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli import parameters
from runner.errors import RunFailed, UsageError
from runner.terminal import console, echo

if TYPE_CHECKING:
    from runner.ledger import Ledger

_COLUMNS = ("time", "id", "provider", "model", "url", "bytes", "sha256", "state", "cost_usd")
_HASH = re.compile(r"[0-9a-fA-F]{16,64}")


@click.command()
@parameters.run_dir
@click.option("--egress", is_flag=True, help="Instead: every request that left the machine.")
@click.option("--record", metavar="ID", help="Instead: the history of one record.")
@click.option("--verify", is_flag=True, help="Instead: was anything changed since it was written?")
@click.option("--head", metavar="HASH", help="With --verify: a last entry noted before.")
@click.option("--curve", is_flag=True, help="Instead: spend against expected error.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def status(
    run_dir: Path,
    egress: bool,
    record: str | None,
    verify: bool,
    head: str | None,
    curve: bool,
    as_json: bool,
) -> None:
    """Counts and spend of a run, also while it goes on."""
    if egress + verify + curve + (record is not None) > 1:
        raise UsageError(
            "give one of --egress, --record, --verify and --curve: each shows something else"
        )
    if head is not None and not (verify and _HASH.fullmatch(head)):
        raise UsageError(
            "--head goes with --verify, and takes 16 to 64 digits of a hash (0-9, a-f)"
        )
    from runner.ledger import read_ledger

    with read_ledger(run_dir) as ledger:
        if egress:
            _show_egress(ledger, as_json)
        elif record is not None:
            _show_record(ledger, record, as_json)
        elif verify:
            _verify(ledger, run_dir, head, as_json)
        elif curve:
            _show_curve(ledger, as_json)
        else:
            _show_counts(ledger, as_json)


def _show_counts(ledger: Ledger, as_json: bool) -> None:
    from runner.status.summary import summarise

    summary = summarise(ledger)
    if as_json:
        echo(json.dumps(summary.as_json()))
        return
    from runner.observe.display import show_summary

    show_summary(console(), summary)


def _show_curve(ledger: Ledger, as_json: bool) -> None:
    from runner.status.curves import spending_curve

    points = spending_curve(ledger)
    if as_json:
        rows = [{"spent_usd": float(usd), "expected_error": share} for usd, share in points]
        echo(json.dumps(rows))
        return
    echo("spent_usd\texpected_error")
    for usd, share in points:
        echo(f"{usd:.4f}\t{share:.4f}")


def _show_egress(ledger: Ledger, as_json: bool) -> None:
    if as_json:
        for call in ledger.attempts.sent():
            echo(json.dumps(call.as_json(), ensure_ascii=False))
        return
    rows = _egress_rows(ledger)
    if sys.stdout.isatty():
        rows = _aligned(list(rows))
    for row in rows:
        echo("\t".join(row))


def _egress_rows(ledger: Ledger) -> Iterator[Sequence[str]]:
    yield _COLUMNS
    for call in ledger.attempts.sent():
        row = call.as_json() | {"cost_usd": f"{call.cost_usd.normalize():f}"}
        # An id may hold what would break a table.
        yield [re.sub(r"\s", " ", str(row[name])) for name in _COLUMNS]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    """For a person's eyes; programs split at the tabs."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [c + " " * (w - cell_len(c)) for c, w in zip(row, widths, strict=True)]
        yield ["  ".join(cells).rstrip()]


def _show_record(ledger: Ledger, record: str, as_json: bool) -> None:
    from runner.status.history import history, history_words

    told = history(ledger, record)
    if as_json:
        echo(json.dumps(told.as_json(), ensure_ascii=False))
        return
    for line in history_words(told):
        echo(line)


def _verify(ledger: Ledger, run_dir: Path, head: str | None, as_json: bool) -> None:
    from runner.pipeline.run import job_of
    from runner.results import check_files

    proof = ledger.prove(head)
    problem, notes = proof.problem, ["no results file was written yet"]
    if problem is None and ledger.meta.results is not None:
        files = check_files(ledger, job_of(run_dir, ledger))
        problem, notes = files.problem, files.notes
    if as_json:
        told = {"whole": problem is None, "entries": proof.entries, "head": proof.head}
        echo(json.dumps({**told, "problem": problem, "notes": notes}))
    if problem is not None:
        raise RunFailed(f"{run_dir} is not as it was written: {problem}")
    if as_json:
        return
    echo(
        f"{proof.entries:,} entries, chain whole; every outcome, call, audit and review row "
        "agrees with its last entry"
    )
    echo(f"the last entry: {proof.head}")
    for note in notes or ["the results file is as it was written"]:
        echo(note)
