"""What the ledger keeps of a whole run: typed outside, and the same text in the file as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import Ledger, open_ledger
from runner.ledger.meta import Audited, Looks, Pace, ResultsFile
from tests import jobs

FILES = {
    "old.csv": ResultsFile("1f", 3, "csv", True),
    "résultats.jsonl": ResultsFile("2e", 7, "auto", False, "0d"),
}
STORED: list[tuple[str, Any, str, str]] = [
    ("job", {"name": "été", "routes": []}, "job", '{"name": "été", "routes": []}'),
    ("login", "escalation.base_url", "login", "escalation.base_url"),
    ("login", None, "login", ""),
    ("identity", {"prompt": "été"}, "identity", '{"prompt": "\\u00e9t\\u00e9"}'),
    ("served", True, "served", "yes"),
    ("certificate", [{"delta": 0.1}], "certificate", '[{"delta": 0.1}]'),
    ("certificate", None, "certificate", "null"),
    ("audit", Audited(20, 3, 1), "audit", '{"checked": 20, "wrong": 3, "alarms": 1}'),
    ("audit", None, "audit", ""),
    ("shift_alarm", True, "shift", "alarm"),
    ("looks", Looks(40, 2, 1.5), "looks", "[40, 2, 1.5]"),
    ("pace", Pace(9, 2.25, 70, 1.5), "pace", "[9, 2.25, 70, 1.5]"),
    ("slowest", [(7, 1.25), (3, 0.5)], "slowest", "[[7, 1.25], [3, 0.5]]"),
    ("stopped", "a cap", "stopped", "a cap"),
    ("drawn", frozenset({9, 2}), "drawn", "[2, 9]"),
    ("results", FILES, "results",
     '{"old.csv": {"sha256": "1f", "after": 3, "format": "csv", "raw": true}, "résultats.jsonl": '
     '{"sha256": "2e", "after": 7, "format": "auto", "raw": false, "former": "0d"}}'),
    ("spend_mark", "ab", "spend", "ab"),
    ("journal_mark", "cd", "journal", "cd"),
    ("batch_mark", "ef", "batches", "ef"),
]  # fmt: skip
NOTHING = {"served": False, "shift_alarm": False, "slowest": [], "drawn": frozenset()}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as ledger:
        yield ledger


@pytest.mark.parametrize(("name", "value", "key", "text"), STORED)
def test_a_value_is_the_same_text_as_ever(
    tmp_path: Path, ledger: Ledger, name: str, value: Any, key: str, text: str
) -> None:
    setattr(ledger.meta, name, value)
    # By another connection: to assign it commits it.
    assert jobs.query(tmp_path, "SELECT key, value FROM meta") == [(key, text)]
    assert getattr(ledger.meta, name) == value
    assert ledger.trail.head()[0] == 1
    setattr(ledger.meta, name, value)
    assert ledger.trail.head()[0] == 1  # the same again is no change
    assert ledger.prove().problem is None


def test_what_was_never_written_is_nothing(ledger: Ledger) -> None:
    names = {name for name, *_ in STORED}
    assert {n: getattr(ledger.meta, n) for n in names} == {n: NOTHING.get(n) for n in names}


def test_a_name_that_is_no_key_is_refused(ledger: Ledger) -> None:
    with pytest.raises(AttributeError):
        ledger.meta.stoped = "a cap"  # type: ignore[attr-defined]
