"""How long the whole takes on this machine, by the pace of the pilot."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from runner.ledger.meta import Pace
from runner.quote.intervals import count_in
from runner.quote.pilot import Pilot

# A rule of thumb: the first answers wait for kernels and grammars to be made, and the last ones do
# not fill the batch. With the demo's 200 and 300 records it was 1.3 to 1.7.
GAIN = 2.0


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds. ``low`` … ``high`` is the local half without ``loading_s``: ``answered`` local
    answers took ``pilot_s``, and a long run may be up to ``gain`` times as fast."""

    loading_s: float
    pilot_s: float
    answered: int
    gain: float
    low: float
    high: float
    gpu_usd: tuple[Decimal, Decimal] | None

    @property
    def records_a_second(self) -> float | None:
        return self.answered / self.pilot_s if self.answered and self.pilot_s else None


def time_of(pilot: Pilot, per_hour: Decimal | None) -> Time:
    """From the most local records that the pilot allows, at its own pace, to the fewest, at the
    fastest that a long run may come to: a window of twice its batch keeps an engine busy, and a
    pilot that does not fill even the half of that leaves it so much idler."""
    drawn, answered = len(pilot.seen), pilot.answered
    each, records, gain = pilot.pilot_s / drawn, count_in(pilot.size, drawn, drawn), 1.0
    if answered:
        each, records = pilot.pilot_s / answered, count_in(pilot.size, drawn, answered)
        gain = max(GAIN, pilot.window / answered)
    low, high = records.low * each / gain, records.high * each
    gpu = None
    if per_hour is not None:
        low_usd, high_usd = (
            Pace(pilot.size, seconds, 0, seconds).gpu_usd(per_hour)
            for seconds in (pilot.loading_s + low, pilot.loading_s + high)
        )
        gpu = (low_usd, high_usd)
    return Time(pilot.loading_s, pilot.pilot_s, answered, gain, low, high, gpu)
