"""How fast it went, and what the machine cost meanwhile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from runner.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Pace:
    """Sums over the runs that came to their end. ``generating_s``: since the model was there."""

    records: int
    seconds: float
    tokens: int
    generating_s: float

    @property
    def records_a_second(self) -> float | None:
        return self.records / self.seconds if self.seconds else None

    @property
    def tokens_a_second(self) -> float | None:
        return self.tokens / self.generating_s if self.tokens and self.generating_s else None

    def gpu_usd(self, per_hour: Decimal) -> Decimal:
        return per_hour * Decimal(str(self.seconds)) / 3600


def pace(ledger: Ledger) -> Pace | None:
    """``None`` where no run came to its end yet, or a former surelocal made the ledger."""
    kept = ledger.meta("pace")
    return Pace(*json.loads(kept)) if kept else None
