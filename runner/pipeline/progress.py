"""How far a run is: what its display shows, and its summary keeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from runner.pipeline.answer import LocalAnswer
from runner.pipeline.slowest import Slowest
from runner.types import Outcome, Record, Status


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

    @contextmanager
    def loading_model(self) -> Iterator[None]:
        """Around the loading of the local model; the generating begins with its end."""
        self.loading = True
        yield
        self.loading = False
        self.generating_since = time.monotonic()

    def answered(self, record: Record, local: LocalAnswer) -> None:
        """Hears of each answer of the local model."""
        self.slowest.saw(record.position, local.seconds)
        self.generated_tokens += local.answer.output_tokens
        if local.found is not None:
            self.looked += 1
            self.looks_changed += local.changed
            self.looks_s += local.looks_s

    def count(self, outcome: Outcome) -> None:
        self.tally(outcome.decided_by or outcome.status)

    def tally(self, end: str) -> None:
        """One more record that ended so."""
        self.by[end] = self.by.get(end, 0) + 1

    def resettle(self, outcome: Outcome) -> None:
        """A record that waited has come to another end."""
        self.by[Status.WAITING] = max(0, self.by.get(Status.WAITING, 0) - 1)
        self.count(outcome)
