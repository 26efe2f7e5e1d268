"""A spreadsheet that opens what we write never finds a formula, and what we read back is whole."""

from __future__ import annotations

import csv
import unicodedata
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.formats.formula_cells import guarded, unguarded
from runner.results import write_results
from runner.types import DecidedBy, Outcome, Status
from tests.fakes import read_rows, surelocal, write_job

BEGINS = ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "﹦", "﹢", "﹣", "﹫"]  # noqa: RUF001
FRONTS = ["", " ", "\u200b", "\ufeff", "\u00a0", "'", "''", "\u00ad \u200b"]
FORMULAS = ["a\r=1+1", "a\n=1+1", "a\r\n=1"] + [
    front + begin + "cmd|'/C calc'!A1" for front in FRONTS for begin in BEGINS
]
TEXTS = st.text(st.sampled_from([*"=+-@\t\r\n＝＋－＠' 15.,eEaé", "\u200b"]), max_size=8)  # noqa: RUF001


def is_formula(cell: str) -> bool:
    """Written anew from what spreadsheets do, and not from the guard's own words."""
    shown = "".join(c for c in cell if unicodedata.category(c) != "Cf").lstrip()
    plain = unicodedata.normalize("NFKC", shown)[:1]
    if not cell or plain not in ("=", "+", "-", "@"):
        return cell[:1] in ("\t", "\r", "\n")
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return True
    return False


@settings(deadline=None, max_examples=60)
@given(TEXTS | st.sampled_from(FORMULAS) | st.text(max_size=5))
def test_a_guarded_text_is_none_and_comes_back(text: str) -> None:
    assert not is_formula(guarded(text)) and unguarded(guarded(text)) == text


@pytest.mark.parametrize("number", ["-5", "+3", "-5,20", "-1.5e-3", "0", "12"])
def test_a_number_stays_one(number: str) -> None:
    assert guarded(number) == number


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_column_of_ours(tmp_path: Path) -> None:
    outcomes = [
        Outcome(
            n,
            text,
            Status.DONE,
            text,
            DecidedBy.LOCAL,
            text,
            -0.5,
            {text: -1.0},
            text,
            Decimal("0.5"),
            text,
        )
        for n, text in enumerate(FORMULAS)
    ]
    write_results(outcomes, tmp_path / "r.csv")
    for text, row in zip(FORMULAS, cells(tmp_path / "r.csv"), strict=True):
        assert not any(is_formula(cell) for cell in row.values() if cell != "-0.5")
        assert [unguarded(row[n]) for n in ("id", "value", "reason", "model", "error")] == [
            text
        ] * 5
        assert row["confidence"] == "-0.5" and row["cost_usd"] == "0.5"
    assert all(len(row) == 10 and None not in row for row in cells(tmp_path / "r.csv"))
    numbers = [Outcome(0, "-7", Status.DONE, -3), Outcome(1, "a", Status.DONE, [-1])]
    write_results(numbers, tmp_path / "n.csv")
    assert [(row["id"], row["value"]) for row in cells(tmp_path / "n.csv")] == [
        ("-7", "-3"),
        ("a", "[-1]"),
    ]


def test_raw_is_asked_for_and_other_formats_are_never_guarded(tmp_path: Path) -> None:
    job = write_job(tmp_path, 'id,message\n=1+1,"=HYPERLINK(1)"\n')
    run_dir = tmp_path / "run"

    def got(path: Path) -> tuple[str, str]:
        [row] = cells(path)
        return row["id"], row["value"]

    plain, guard = ("=1+1", "=HYPERLINK(1)"), ("'=1+1", "'=HYPERLINK(1)")
    for options, want in (([], guard), (["--raw"], plain), (["--set", "output.raw=true"], plain)):
        out = tmp_path / "out.csv"
        assert surelocal("run", job, "--run-dir", run_dir, "-o", out, *options).exit_code == 0
        assert got(out) == want
    assert surelocal("run", job, "--run-dir", run_dir).exit_code == 0
    for options, want in (([], guard), (["--raw"], plain)):
        assert surelocal("export", run_dir, "-o", tmp_path / "e.csv", *options).exit_code == 0
        assert got(tmp_path / "e.csv") == want
    [row] = read_rows(run_dir / "results.jsonl")
    assert (row["id"], row["value"]) == plain
