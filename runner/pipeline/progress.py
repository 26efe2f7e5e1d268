"""How far a run is: what its display shows, and its summary keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from runner.pipeline.slowest import Slowest
from runner.types import Outcome, Status


@dataclass(slots=True)
class Progress:
    """What the display shows; counted since the run's start, resumed records included."""

    seen: int = 0
    resumed: int = 0
    loading: bool = False
    generating_since: float | None = None
    generated_tokens: int = 0
    by: dict[str, int] = field(default_factory=dict)
    money: Callable[[], tuple[Decimal, Decimal]] | None = None
    """(spent, cap) in US dollars, where something may be spent."""
    looked: int = 0
    looks_changed: int = 0
    looks_s: float = 0.0
    """Answers that got further looks, decisions these changed, and their requests' seconds."""
    slowest: Slowest = field(default_factory=Slowest)

    def count(self, outcome: Outcome) -> None:
        key = outcome.decided_by or outcome.status
        self.by[key] = self.by.get(key, 0) + 1

    def resettle(self, outcome: Outcome) -> None:
        """A record that waited has come to another end."""
        self.by[Status.WAITING] = max(0, self.by.get(Status.WAITING, 0) - 1)
        self.count(outcome)
