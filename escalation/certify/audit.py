"""A sequential test that the accepted answers still meet the certified error rate.

A certificate (`escalation.certify.thresholds`) holds for traffic like its sample. During a run, a
random share of the accepted answers is checked, and each check is wrong or right. H0 is the
certified claim: given all earlier checks, each check is wrong with probability at most α. `Audit`
bets against H0. Its wealth starts at 1 and is a nonnegative supermartingale under H0, so the
probability that it ever reaches 1/δ is at most δ, however often it is inspected (Ville, 1939).
Reaching 1/δ raises the alarm.

**The bets.** A bet of tilt θ multiplies its stake by the likelihood ratio of an error rate q to α,
q/α at a wrong answer and (1 − q)/(1 − α) at a right one, where q has θ times the odds of α. That is
1 + λ(x − α) with λ = (q − α)/(α(1 − α)) ≥ 0: testing by betting (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2024). The wealth is spread evenly over
`TILTS`, so nothing is fitted to the run.

**The starts.** A bet placed at the first check has lost much of its stake by the time errors begin.
So part of the wealth is held in reserve and staked gradually (`Wager`). Each part keeps its value
until it is staked, so the sum is a mixture over start times and still a supermartingale, over a run
of any length (cf. Shin, Ramdas and Rinaldo, "E-detectors", 2023, whose sum over starts has no
weights and bounds the time to a false alarm rather than its probability).

**What it requires.** The order of the verdicts must not depend on the verdicts: use the order of
the records in the input, not the order in which checks complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TILTS = (1.5, 2.5, 5.0, 12.0)
"""The odds ratios of the bets. At α = 5 %: error rates of 7, 12, 21 and 39 %."""

PATIENCE = 50
"""Checks after which half of the wealth is staked."""

_ENOUGH = 1e100
_BISECTIONS = 20


class Wager:
    """Wealth spread over bets and their start times. After t rounds, patience/(patience + t) of the
    starting wealth is still in reserve.

    If every bet's factor has an expectation of at most 1 given the past, the wealth is a
    supermartingale. It is above 0, in units of the starting wealth, and frozen above 1e100 to avoid
    floating-point overflow.
    """

    __slots__ = ("_patience", "_reserve", "_round", "_stakes", "wealth")

    def __init__(self, bets: int, patience: float) -> None:
        self._stakes = [0.0] * bets
        self._patience = patience
        self._reserve = 1.0
        self._round = 0
        self.wealth = 1.0

    def round(self, factors: Sequence[float]) -> None:
        """Stakes a share of the reserve, then multiplies each bet's stake by its factor (above 0);
        shape (bets,)."""
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
    """The sequential test of H0: each check is wrong with probability at most ``target_error``,
    given those before it. The probability of a false alarm, ever, is at most ``delta``.

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
        """Adds the verdict of one check."""
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
        """The current evidence against H0, as a multiple of the starting wealth; above 0."""
        return self._wager.wealth

    @property
    def alarm(self) -> bool:
        """Whether the wealth has ever reached 1/δ; ``alarm_at`` is the number of checks until
        then."""
        return self.alarm_at is not None

    @property
    def lower_bound(self) -> float:
        """A lower bound, in [0, 1), of the highest error rate that the run has had *at any time*.

        It is the greatest α whose audit would have raised the alarm on these verdicts, so with
        probability at least 1 − δ it never exceeds the highest error rate, at any time. It never
        decreases, and it is at least ``target_error`` exactly when there is an alarm. Each call
        replays the verdicts some 20 times: call it for a summary, not at every check.
        """
        low, high = (self.target_error, 1.0) if self.alarm else (0.0, self.target_error)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            # For a given tilt, the wealth decreases as α increases, so the alarm is monotone in α.
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
    """The factors of each tilt's stake at a right and at a wrong answer; both of shape (TILTS,).

    With q = θα/(1 + α(θ − 1)), the rate whose odds are θ times α's: q/α and (1 − q)/(1 − α).
    """
    right = [1 / (1 + rate * (tilt - 1)) for tilt in TILTS]
    return right, [tilt * each for tilt, each in zip(TILTS, right, strict=True)]


def chosen(record_id: str, rate: float, seed: str) -> bool:
    """Whether a record is in the audit's sample. Does not depend on order or resumes.

    Args:
        record_id: the record's id; records are chosen independently of one another.
        rate: the share to choose, in [0, 1]; a higher rate chooses a superset of the records.
        seed: the run's seed; the author of the records should not be able to predict it.
    """
    return uniform(record_id, seed) < rate


def uniform(name: str, seed: str) -> float:
    """A number in [0, 1) computed from name and seed by SHA-256; uniform over names."""
    # The length keeps ("a", "bc") apart from ("ab", "c").
    text = f"{len(seed)}:{seed}{name}".encode("utf-8", "surrogatepass")
    # 53 bits: more would round up to 1.0.
    return (int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11) / (1 << 53)


def require_share(name: str, value: float) -> None:
    """Raises ValueError unless ``value`` is in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"`{name}` must lie between 0 and 1; it is {value}")
