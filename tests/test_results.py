"""Results out: the same rows in three formats, whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import InputError, RunFailed
from runner.results import COLUMNS, row, write_results
from runner.types import DecidedBy, Outcome, Reason, Status
from tests.fakes import read_rows

CLEAN = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CLEAN, max_size=8)
VALUES = st.none() | TEXT | st.dictionaries(TEXT, TEXT | st.integers(-5, 5) | st.booleans())
OUTCOMES = st.builds(
    Outcome,
    position=st.just(0),
    record_id=TEXT,
    status=st.sampled_from(Status),
    value=VALUES,
    decided_by=st.none() | st.sampled_from(DecidedBy),
    reason=st.none() | st.sampled_from(Reason),
    words=st.none() | TEXT,
    confidence=st.none() | st.floats(0, 1),
    field_confidence=st.dictionaries(TEXT, st.floats(0, 1), max_size=2),
    model=st.none() | TEXT,
    cost_usd=st.decimals(0, 10, places=6),
    error=st.none() | TEXT,
)
SURE = Outcome(
    1, "T-2", Status.DONE, {"intent": "é"}, DecidedBy.LOCAL, "confident", 0.987654, {"intent": 1.0},
    "m", Decimal("0.0001"),
)  # fmt: skip
BROKEN = Outcome(2, "T-3", Status.ERROR, reason="bad_record", error='line 4: "x",\nbroken')


def test_a_row_is_the_contracts_row() -> None:
    assert row(SURE) == {
        "id": "T-2",
        "status": "done",
        "value": {"intent": "é"},
        "decided_by": "local",
        "reason": "confident",
        "confidence": 0.9877,
        "field_confidence": {"intent": 1.0},
        "model": "m",
        "cost_usd": 0.0001,
        "error": None,
    }
    assert tuple(row(BROKEN)) == COLUMNS


def as_jsonl(path: Path) -> list[dict[str, Any]]:
    return read_rows(path)


def as_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def as_parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def cells(one: dict[str, Any]) -> dict[str, str]:
    """A row as text: what a CSV can hold of it."""
    text = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in one.items()
        if value is not None
    }
    return {name: text.get(name, "") for name in COLUMNS}


def test_three_formats_hold_equal_rows(tmp_path: Path) -> None:
    outcomes = [SURE, BROKEN, Outcome(3, "T-4", Status.DONE, "text, plain", DecidedBy.TEMPLATE)]
    readers = {"jsonl": as_jsonl, "csv": as_csv, "parquet": as_parquet}
    found = {}
    for ending, reader in readers.items():
        path = tmp_path / "new" / f"results.{ending}"
        assert write_results(iter(outcomes), path) == 3
        found[ending] = [cells(one) for one in reader(path)]
    assert found["jsonl"] == [cells(row(o)) for o in outcomes]
    assert found["csv"] == found["jsonl"]
    assert found["parquet"] == found["jsonl"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(OUTCOMES, max_size=4))
def test_jsonl_rows_are_read_back_as_they_were(tmp_path: Path, outcomes: list[Outcome]) -> None:
    path = tmp_path / "r.jsonl"
    assert write_results(outcomes, path) == len(outcomes)
    lines = path.read_bytes().decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [row(o) for o in outcomes]
    assert lines[-1] == ""


def test_more_rows_than_one_parquet_part(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    assert (
        write_results((Outcome(n, str(n), Status.WAITING) for n in range(10_000)), path) == 10_000
    )
    assert pq.read_table(path).column("id").to_pylist() == [str(n) for n in range(10_000)]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_no_rows_make_a_file_of_none(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"r.{ending}"
    assert write_results([], path) == 0
    assert {"jsonl": as_jsonl, "csv": as_csv, "parquet": as_parquet}[ending](path) == []


def test_what_breaks_off_leaves_the_former_results_alone(tmp_path: Path) -> None:
    def broken() -> Iterator[Outcome]:
        yield SURE
        raise ZeroDivisionError

    path = tmp_path / "r.jsonl"
    write_results([BROKEN], path)
    with pytest.raises(ZeroDivisionError):
        write_results(broken(), path)
    assert [one["id"] for one in read_rows(path)] == ["T-3"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_full_disk_is_a_sentence_with_the_fix(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"full.{ending}"
    path.symlink_to("/dev/full")
    with pytest.raises(RunFailed, match=r"No space left.*`surelocal export RUN_DIR -o FILE`"):
        write_results([SURE], path)
    assert path.is_symlink()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed, match=r"cannot write the results to .*file"):
        write_results([SURE], tmp_path / "file" / "r.jsonl")
    with pytest.raises(InputError, match=r"cannot tell the format from the ending '\.txt'"):
        write_results([SURE], tmp_path / "r.txt")
