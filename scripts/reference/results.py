"""results.md: the columns of a result row, its statuses and reasons, and where it is kept."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

from reference.text import LackingError, code, said, table, under
from runner.job.records import Output
from runner.ledger import attempts as calls
from runner.ledger import audits, batches, reviews, store, trail
from runner.ledger.opening import LEDGER, SCHEMA
from runner.reasons import DecidedBy, Reason, Status
from runner.results import COLUMNS
from runner.status.summary import CAUSES
from runner.types import Outcome

_COLUMN = {"id": "record_id"}
FORMATS = {
    "jsonl": "One JSON object a line, keys in this order.",
    "csv": "A header line; `field_confidence` is JSON text, and so is `value` unless it is plain "
    "text; null is an empty cell.",
    "parquet": "`confidence` and `cost_usd` are doubles; all others are text, as in CSV.",
    "openai_batch": "The output format of OpenAI's batch API; the `surelocal` of each line holds "
    "the columns of surelocal.",
}
TABLES = {
    "meta": "Data of the whole run: the job, its identity, the certificate.",
    "outcomes": said(store.__doc__, "runner.ledger.store"),
    "held": "The data with which a waiting or reviewed record can be decided without its file.",
    "audits": said(audits.__doc__, "runner.ledger.audits"),
    "reviews": said(reviews.__doc__, "runner.ledger.reviews"),
    "attempts": said(calls.__doc__, "runner.ledger.attempts"),
    "batches": said(batches.__doc__, "runner.ledger.batches"),
    "trail": said((trail.__doc__ or "").partition("\n\n")[0], "runner.ledger.trail"),
    "places": "The order of the last records file, if it differs from that of the positions: the "
    "`length` records from `place` on have the positions from `position` on.",
    "gone": "Positions of records that are no longer in the last records file.",
}
_REASONS = """## reason

Why a record has its status. A record that the closed model or a person decided keeps the reason for
which it was sent there. The `reason` of a rule may replace it.
"""
_WAITS = """## What a waiting record waits for

Not in the row, but in the counts of `surelocal run` and `surelocal status`.
"""
_LEDGER = f"""## The ledger

The ledger is `{LEDGER}` in the run directory, an SQLite file; money is in 10⁻¹² US dollars. Only
read it: every entry is chained to the one before, and `surelocal status --verify` reports changes.
"""


def columns() -> dict[str, str]:
    """Column → what it holds.

    Raises:
        LackingError: a column has no description.
    """
    texts = under(Outcome)
    return {name: texts[_COLUMN.get(name, name)] for name in COLUMNS}


def reasons() -> dict[Reason, tuple[str, str, str]]:
    """Reason → its words, its cause, and its fix ("" if there is none).

    Raises:
        LackingError: a reason has no description, or one without a cause.
    """
    found = {}
    for name, text in under(Reason).items():
        rest, _, fix = text.partition(" Fix: ")
        words, _, cause = rest.partition(". ")
        if not cause:
            raise LackingError(f"runner.reasons.Reason.{name} has no cause after its words")
        found[Reason[name]] = words, cause, fix[:1].upper() + fix[1:]
    return found


def page() -> str:
    told = reasons()
    ends = {reason: row for reason, row in told.items() if reason not in CAUSES}
    waits = {reason: row for reason, row in told.items() if reason in CAUSES}
    head = ("reason", "in words", "caused by", "fix")
    return "\n".join([
        "# Results\n",
        "One row for each record, in input order; a rerun writes the same bytes if nothing "
        "changed.\n",
        table(("column", "what it holds"), ((code(n), t) for n, t in columns().items())),
        *_enum(Status, "status"),
        *_enum(DecidedBy, "decided_by"),
        _REASONS,
        table(head, ((code(reason), *row) for reason, row in ends.items())),
        _WAITS,
        table(head, ((code(reason), *row) for reason, row in waits.items())),
        table(("also", "in words"), ((code(c), w) for c, w in CAUSES.items() if c not in told)),
        "## Formats\n",
        f"{_said_of_output('format')} `output.table`: {_said_of_output('table')}\n",
        table(("format", "is"), ((code(name), text) for name, text in FORMATS.items())),
        _LEDGER,
        table(("table", "holds", "columns"), _tables()),
    ])  # fmt: skip


def _enum(kind: type[Status] | type[DecidedBy], name: str) -> Iterator[str]:
    rows = ((code(kind[member]), text) for member, text in under(kind).items())
    yield f"## {name}\n"
    yield table((name, "means"), rows)


def _said_of_output(name: str) -> str:
    return said(Output.model_fields[name].description, f"output.{name}")


def _tables() -> Iterator[tuple[str, str, str]]:
    for name, names in tables().items():
        if name not in TABLES:
            raise LackingError(f"the ledger's table `{name}` has no description")
        yield code(name), TABLES[name], ", ".join(map(code, names))


def tables() -> dict[str, list[str]]:
    """The ledger's tables and their columns, read from SQLite."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(SCHEMA)
        names = re.findall(r"CREATE TABLE (\w+)", SCHEMA)
        ask = "SELECT name FROM pragma_table_info(?)"
        return {name: [row[0] for row in database.execute(ask, (name,))] for name in names}
    finally:
        database.close()
