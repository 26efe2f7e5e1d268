"""Checks that the courier's journal and the ledger agree; otherwise nothing more is sent.

A paid call is in the ledger before the courier receives it. If the journal has calls that the
ledger lacks, the ledger was replaced: its ``-wal`` was deleted, an older copy was restored, or the
folder was copied during a run. Continuing would pay for the same records again.

The journal is of one run, and goes once all of it is in the ledger; ``paid.json`` stays, with the
ledger's own mark and how many calls it had when the last run was through.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from escalation.send.courier import JOURNAL
from runner.errors import RunDirError
from runner.ledger import Ledger
from runner.private import opener

PAID = "paid.json"
_SHORT = 1 << 10  # bytes: a reply's line is no sign of a call that was sent
_MOST_NAMED = 3
_WAY_ON = (
    "; nothing was sent, as it could be paid for twice: put back the ledger that was here, with "
    "its -wal, or take a new --run-dir"
)


def check(run_dir: Path, ledger: Ledger) -> None:
    """Compares the courier's journal with the ledger.

    Raises:
        RunDirError: they contradict each other, with what was seen.
    """
    last = ledger.attempts.next_id() - 1
    paid = _read_paid(run_dir)
    if paid is not None and paid["ledger"] != ledger.meta.journal_mark:
        raise RunDirError(
            f"{run_dir}: {PAID} records {paid['calls']:,} paid calls in another ledger than this "
            f"ledger.sqlite, which knows {last:,}: it was replaced, or begun anew{_WAY_ON}"
        )
    if paid is not None and paid["calls"] > last:
        raise RunDirError(
            f"{run_dir}: {PAID} records {paid['calls']:,} paid calls, and ledger.sqlite knows "
            f"only {last:,} of them: it is an older one{_WAY_ON}"
        )
    _check_journal(run_dir, ledger, last)


def _check_journal(run_dir: Path, ledger: Ledger, last: int) -> None:
    unknown, others = [], []
    for attempt, mark in _sent(run_dir / JOURNAL):
        call = ledger.attempts.find(attempt)
        if call is None:
            unknown.append(f"call {attempt}")
        elif mark is not None and mark != call.egress.sha256:
            others.append(f"call {attempt} (in the ledger: {call.record_id})")
    if unknown:
        raise RunDirError(
            f"{run_dir}: {JOURNAL} lists {len(unknown):,} paid calls that ledger.sqlite does "
            f"not know ({_named(unknown)}; its last is {last:,}): it is an older ledger, or "
            f"lacks its -wal{_WAY_ON}"
        )
    if others:
        raise RunDirError(
            f"{run_dir}: {JOURNAL} lists other requests than ledger.sqlite, which has the same "
            f"numbers for them: {_named(others)}: one of the two is another run's{_WAY_ON}"
        )


def _named(calls: list[str]) -> str:
    more = len(calls) - _MOST_NAMED
    return ", ".join(calls[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def close(run_dir: Path, ledger: Ledger) -> None:
    """Deletes the journal, which is now all in the ledger, and records the number of calls."""
    calls = ledger.attempts.next_id() - 1
    if calls:
        mark = ledger.meta.journal_mark or uuid.uuid4().hex
        ledger.meta.journal_mark = mark
        known = {"ledger": mark, "calls": calls}
        try:
            if _read_paid(run_dir) != known:
                _write(run_dir, json.dumps(known) + "\n")
        except OSError:
            return  # a full disk: then the journal stays
    (run_dir / JOURNAL).unlink(missing_ok=True)


def _write(run_dir: Path, text: str) -> None:
    """Whole or not at all, and on the disk."""
    beside = run_dir / f"{PAID}.tmp"
    with open(beside, "w", encoding="utf-8", opener=opener) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(run_dir / PAID)


def _read_paid(run_dir: Path) -> dict[str, Any] | None:
    """None where there is none that can be read: then it says nothing."""
    found = _object(run_dir / PAID)
    whole = isinstance(found.get("calls"), int) and isinstance(found.get("ledger"), str)
    return found if whole else None


def _object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_bytes()[:_SHORT])
    except OSError:
        return {}


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sent(path: Path) -> Iterator[tuple[int, str | None]]:
    """(attempt, hash of its body, where a newer courier wrote it) of each call that was sent."""
    try:
        with path.open("rb") as file:
            for line in file:
                entry = _parsed(line) if len(line) < _SHORT and b'"sent"' in line else {}
                attempt, mark = entry.get("attempt"), entry.get("sha256")
                if entry.get("sent") is True and isinstance(attempt, int):
                    yield attempt, mark if isinstance(mark, str) else None
    except FileNotFoundError:
        return
