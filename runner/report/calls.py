"""Requests to the closed model: how they ended, what they took, and the spend as it grew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from runner.ledger import Ledger
from runner.ledger.money import from_pico

STEPS = 240
_USAGE = ("input_tokens", "cache_write_5m", "cache_write_1h", "cache_read", "output_tokens")


@dataclass(frozen=True, slots=True)
class Calls:
    """``states``: (state, how many, US dollars spent or reserved). ``tokens``: (prompt, of these
    read from a cache, answer). ``spend``: (seconds since the first call, US dollars so far).
    ``seconds``: (mean, longest) of a live call that was answered."""

    states: Sequence[tuple[str, int, Decimal]]
    tokens: tuple[int, int, int]
    spend: Sequence[tuple[float, Decimal]]
    seconds: tuple[float, float] | None

    @property
    def count(self) -> int:
        return sum(count for _, count, _ in self.states)


def calls(ledger: Ledger) -> Calls:
    states = ledger.query(
        "SELECT state, COUNT(*), SUM(COALESCE(cost, reserved)) FROM attempts "
        "GROUP BY state ORDER BY 2 DESC, state"
    )
    sums = ", ".join(f"SUM(json_extract(usage, '$.{name}'))" for name in _USAGE)
    ((fresh, short, long, read, said),) = ledger.query(f"SELECT {sums} FROM attempts")
    ((mean, longest),) = ledger.query(
        "SELECT AVG(ended_at - begun_at), MAX(ended_at - begun_at) FROM attempts "
        "WHERE state = 'settled' AND batch IS NULL"
    )
    prompt = sum(tokens or 0 for tokens in (fresh, short, long, read))
    return Calls(
        [(str(state), count, from_pico(cost)) for state, count, cost in states],
        (prompt, read or 0, said or 0),
        _spend(ledger),
        None if mean is None else (mean, longest),
    )


def _spend(ledger: Ledger) -> list[tuple[float, Decimal]]:
    ((first, last),) = ledger.query("SELECT MIN(begun_at), MAX(begun_at) FROM attempts")
    if first is None:
        return []
    step = max(last - first, 1e-3) / STEPS
    rows = ledger.query(
        "SELECT CAST((begun_at - ?) / ? AS INTEGER), SUM(COALESCE(cost, reserved)) "
        "FROM attempts GROUP BY 1 ORDER BY 1",
        (first, step),
    )
    spent, points = Decimal(0), [(0.0, Decimal(0))]
    for place, cost in rows:
        spent += from_pico(cost)
        points.append(((place + 1) * step, spent))
    return points
