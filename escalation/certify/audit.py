"""Whether the accepted answers still err no more than was certified, asked anew at every check.

A certificate (`escalation.certify.thresholds`) speaks of traffic like its sample. While a run goes
on, a random share of the accepted answers is checked, and each check says wrong or not. H0 is the
promise: given all earlier checks, each check is wrong with probability at most α. `Audit` bets
against H0. Its wealth starts at 1 and is a nonnegative supermartingale under H0, so it ever
reaches 1/δ with probability at most δ, however often one looks (Ville, 1939); reaching it is the
alarm.

**The bets.** A bet of tilt θ multiplies its stake by the likelihood ratio of an error rate q to α,
q/α at a wrong answer and (1 − q)/(1 − α) at a right one, where q has θ times the odds of α. That is
1 + λ(x − α) with λ = (q − α)/(α(1 − α)) ≥ 0: testing by betting (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2024). The wealth is spread evenly over
`TILTS`, so nothing is fitted to the run.

**The starts.** A bet that is on from the first check has lost much by the time that errors begin.
So part of the wealth is kept back and staked bit by bit (`Wager`). Each part is worth its own
share until it is staked, so the sum is a mixture over start times and still a supermartingale, over
a run of any length (cf. Shin, Ramdas and Rinaldo, "E-detectors", 2023, whose sum over starts has no
weights and bounds the time to a false alarm rather than its probability).

**What it needs.** The order in which verdicts are observed must not depend on them: take the
records' order in the input, not that in which the checks came back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TILTS = (1.5, 2.5, 5.0, 12.0)
"""Odds ratios bet on. At α = 5 %: error rates of 7, 12, 21 and 39 %."""

PATIENCE = 50
"""Checks after which half of the wealth is staked."""

_ENOUGH = 1e100
_BISECTIONS = 20


class Wager:
    """Wealth spread over bets and over their start times: of 1, patience/(patience + t) is still
    kept back after t rounds.

    If every bet's factor has an expectation of at most 1 given the past, the wealth is a
    supermartingale. It is in units of the starting wealth and above 0, and stands still beyond
    1e100, where any case is closed and a float would end.
    """

    __slots__ = ("_patience", "_reserve", "_round", "_stakes", "wealth")

    def __init__(self, bets: int, patience: float) -> None:
        self._stakes = [0.0] * bets
        self._patience = patience
        self._reserve = 1.0
        self._round = 0
        self.wealth = 1.0

    def round(self, factors: Sequence[float]) -> None:
        """Stakes a little more, then multiplies each bet's stake by its factor (above 0); shape
        (bets,)."""
        if self.wealth > _ENOUGH:
            return
        self._round += 1
        reserve = self._patience / (self._patience + self._round)
        share = (self._reserve - reserve) / len(self._stakes)
        self._reserve = reserve
        self._stakes = [
            (stake + share) * factor for stake, factor in zip(self._stakes, factors, strict=True)
        ]
        self.wealth = reserve + sum(self._stakes)


class Audit:
    """The running test of H0: each check is wrong with probability at most ``target_error``, given
    those before it. The chance that it ever raises a false alarm is at most ``delta``.

    Args:
        target_error: α in (0, 1).
        delta: δ in (0, 1).

    Raises:
        ValueError: one of them is not in (0, 1).
    """

    def __init__(self, target_error: float, delta: float) -> None:
        require_share("target_error", target_error)
        require_share("delta", delta)
        self.target_error = target_error
        self.delta = delta
        self.alarm_at: int | None = None
        self._factors = _factors(target_error)
        self._wager = Wager(len(TILTS), PATIENCE)
        self._verdicts = bytearray()

    def observe(self, wrong: bool) -> None:
        """Counts one more check."""
        self._verdicts.append(bool(wrong))
        self._wager.round(self._factors[bool(wrong)])
        if self.alarm_at is None and self._wager.wealth >= 1 / self.delta:
            self.alarm_at = len(self._verdicts)

    @property
    def checked(self) -> int:
        return len(self._verdicts)

    @property
    def wrong(self) -> int:
        return sum(self._verdicts)

    @property
    def wealth(self) -> float:
        """The evidence against H0 as it stands, as a multiple of the start; above 0."""
        return self._wager.wealth

    @property
    def alarm(self) -> bool:
        """Whether the wealth has ever reached 1/δ; ``alarm_at`` is after how many checks."""
        return self.alarm_at is not None

    @property
    def lower_bound(self) -> float:
        """What the error rate has *at some time in the run* been at least, in [0, 1).

        It is the greatest α whose own audit would have raised the alarm on these verdicts, so
        with probability at least 1 − δ no look at it is ever above the greatest rate there was.
        It never falls, and it is at least ``target_error`` exactly when there is an alarm. Some 20
        replays of the verdicts: for a summary, not for every check.
        """
        low, high = (self.target_error, 1.0) if self.alarm else (0.0, self.target_error)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            # The wealth falls as α grows, for a given tilt: so the alarm is monotone in α.
            if self._would_alarm(middle):
                low = middle
            else:
                high = middle
        return low

    def _would_alarm(self, rate: float) -> bool:
        wager, factors = Wager(len(TILTS), PATIENCE), _factors(rate)
        for wrong in self._verdicts:
            wager.round(factors[wrong])
            if wager.wealth >= 1 / self.delta:
                return True
        return False


def _factors(rate: float) -> tuple[list[float], list[float]]:
    """What a right and what a wrong answer multiply each tilt's stake by; both of shape (TILTS,).

    With q = θα/(1 + α(θ − 1)), the rate whose odds are θ times α's: q/α and (1 − q)/(1 − α).
    """
    right = [1 / (1 + rate * (tilt - 1)) for tilt in TILTS]
    return right, [tilt * each for tilt, each in zip(TILTS, right, strict=True)]


def chosen(record_id: str, rate: float, seed: str) -> bool:
    """Whether a record is in the audit's sample: the same at every resume and in any order.

    Args:
        record_id: the record's own; records are chosen independently of one another.
        rate: the share to choose, in [0, 1]; a greater rate chooses these records and more.
        seed: the run's; nobody who writes the records should be able to foresee it.
    """
    return uniform(record_id, seed) < rate


def uniform(name: str, seed: str) -> float:
    """A number in [0, 1), uniform over names, that name and seed determine (by SHA-256)."""
    # The length keeps ("a", "bc") apart from ("ab", "c").
    text = f"{len(seed)}:{seed}{name}".encode("utf-8", "surrogatepass")
    # 53 bits: more would round up to 1.0.
    return (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11) / (1 << 53)


def require_share(name: str, value: float) -> None:
    """Raises ValueError unless ``value`` is in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie between 0 and 1; it is {value}")
