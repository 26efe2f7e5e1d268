"""Spend against expected error: what it would cost to be wrong less often."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from runner.job.confidence import Confidence
from runner.ledger import open_ledger
from runner.status.curves import certified_curve, spending_curve
from runner.types import DecidedBy, Outcome, Status
from tests.fakes import surelocal
from tests.test_calibration import of, one

CONFIDENCES = (0.99, 0.5, 0.9, 0.2)


def ledger_of(folder: Path, costs: tuple[str, ...]) -> Path:
    with open_ledger(folder / "run") as ledger:
        for n, (confidence, cost) in enumerate(zip(CONFIDENCES, costs, strict=True)):
            outcome = Outcome(
                n, f"R-{n}", Status.DONE, "a", DecidedBy.LOCAL, "confident", confidence,
                closed_estimate=Decimal(cost),
            )  # fmt: skip
            ledger.put(outcome, "mark")
        ledger.put(Outcome(4, "R-4", Status.DONE, "b", DecidedBy.TEMPLATE, "template"), "mark")
    return folder / "run"


def test_it_falls_from_all_local_to_nothing_left_by_most_loss_a_dollar(tmp_path: Path) -> None:
    run_dir = ledger_of(tmp_path, ("0.01", "0.01", "0.01", "0.10"))
    with open_ledger(run_dir) as ledger:
        curve = spending_curve(ledger)
    assert curve[0] == (Decimal(0), pytest.approx((0.01 + 0.5 + 0.1 + 0.8) / 4))
    # 0.5 a cent before 0.1 a cent before 0.8 for ten.
    assert [usd for usd, _ in curve] == [Decimal(c) for c in ("0", "0.01", "0.02", "0.12", "0.13")]
    assert curve[2][1] == pytest.approx((0.01 + 0.8) / 4)
    assert curve[-1][1] == pytest.approx(0)


def test_the_command_prints_the_same(tmp_path: Path) -> None:
    run_dir = ledger_of(tmp_path, ("0.01",) * 4)
    rows = json.loads(surelocal("status", run_dir, "--curve", "--json").stdout)
    assert [row["spent_usd"] for row in rows] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    lines = surelocal("status", run_dir, "--curve").stdout.splitlines()
    assert len(lines) == 6
    assert surelocal("status", run_dir, "--curve", "--egress").exit_code == 2


def test_looser_targets_let_more_be_accepted() -> None:
    found = of([one(1 - n / 1000, n > 900 or n % 40 == 39) for n in range(1000)])
    curve = certified_curve(found, Confidence(target_error=0.05))
    assert [target for target, _ in curve] == [0.01, 0.02, 0.05, 0.1]
    shares = [share for _, share in curve]
    assert shares == sorted(shares)
    assert shares[0] == 0.0 < shares[2] < shares[3]
