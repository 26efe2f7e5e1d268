"""What one run directory's paid calls share."""

from __future__ import annotations

import uuid
from pathlib import Path

from escalation.limits.daily_cap import Day, SpendFile
from escalation.send.closed_side import ClosedSide
from runner.ledger import Ledger

GRACE_S = 10.0


def day_cap(closed: ClosedSide, ledger: Ledger, run_dir: Path) -> Day | None:
    """The run directory's part in the cap; None where there is no such cap."""
    cap = closed.settings.daily_budget_usd
    if cap is None:
        return None
    file, patience_s = SpendFile(closed.spend_file), closed.settings.timeout_s + GRACE_S
    mark = ledger.meta.spend_mark or uuid.uuid4().hex
    ledger.meta.spend_mark = mark
    # With a mark: another run may later be made in a folder of the same name. With the folder: a
    # copy of it is another run.
    return Day(file, f"{run_dir.resolve()} {mark}", cap, patience_s)
