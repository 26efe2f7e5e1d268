"""Sums over the paid calls: their final states, tokens, costs and times."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from runner.ledger.money import from_pico

_PROMPT = ("input_tokens", "cache_write_5m", "cache_write_1h", "cache_read")


def _counted(*names: str) -> str:
    """These of a call's tokens together; 0 where it has none."""
    return " + ".join(f"COALESCE(json_extract(usage, '$.{name}'), 0)" for name in names)


_TOKENS = f"SUM({_counted(*_PROMPT)}), SUM({_counted('cache_read')}), "
_TOKENS += f"SUM({_counted('output_tokens')})"


class Tokens(NamedTuple):
    """``cached``: those of the prompt that were read from a cache."""

    prompt: int
    cached: int
    answer: int


NO_TOKENS = Tokens(0, 0, 0)


@dataclass(frozen=True, slots=True)
class State:
    """The calls in one state, and the US dollars that they cost or have reserved."""

    name: str
    calls: int
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Paid:
    """The answered calls of one lane, live or ``batched``, and the US dollars that they cost."""

    batched: bool
    calls: int
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Estimated:
    """The answered calls, what they cost, and what their records had been estimated to cost, in US
    dollars."""

    calls: int
    usd: Decimal
    estimated_usd: Decimal


class Bills:
    """Questions about the ``attempts`` table as a whole, and the tokens of one record."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def by_state(self) -> list[State]:
        """The most frequent state first."""
        rows = self._db.execute(
            "SELECT state, COUNT(*), SUM(COALESCE(cost, reserved)) FROM attempts "
            "GROUP BY state ORDER BY 2 DESC, state"
        )
        return [State(state, count, from_pico(cost)) for state, count, cost in rows]

    def by_lane(self) -> list[Paid]:
        """The live calls first; a lane without an answered call is left out."""
        rows = self._db.execute(
            "SELECT batch IS NOT NULL, COUNT(*), SUM(cost) FROM attempts "
            "WHERE state = 'settled' GROUP BY 1"
        )
        return [Paid(bool(batched), count, from_pico(cost)) for batched, count, cost in rows]

    def against_estimates(self) -> Estimated:
        """Of the calls whose record still has an outcome."""
        count, paid, estimated = self._db.execute(
            "SELECT COUNT(*), SUM(a.cost), SUM(o.closed_estimate) FROM attempts a "
            "JOIN outcomes o USING (position) WHERE a.state = 'settled'"
        ).fetchone()
        return Estimated(count, from_pico(paid), from_pico(estimated))

    def answer_seconds(self) -> tuple[float, float] | None:
        """(mean, longest) of the live calls that were answered; None where none was."""
        mean, longest = self._db.execute(
            "SELECT AVG(ended_at - begun_at), MAX(ended_at - begun_at) FROM attempts "
            "WHERE state = 'settled' AND batch IS NULL"
        ).fetchone()
        return None if mean is None else (mean, longest)

    def spend(self, steps: int) -> list[tuple[float, Decimal]]:
        """(seconds since the first call, US dollars spent or reserved so far) at the end of each of
        so many equal steps in which a call was begun, after (0, 0); empty without any call."""
        first, last = self._db.execute(
            "SELECT MIN(begun_at), MAX(begun_at) FROM attempts"
        ).fetchone()
        if first is None:
            return []
        step = max(last - first, 1e-3) / steps
        rows = self._db.execute(
            "SELECT CAST((begun_at - ?) / ? AS INTEGER), SUM(COALESCE(cost, reserved)) "
            "FROM attempts GROUP BY 1 ORDER BY 1",
            (first, step),
        )
        spent, points = Decimal(0), [(0.0, Decimal(0))]
        for place, cost in rows:
            spent += from_pico(cost)
            points.append(((place + 1) * step, spent))
        return points

    def tokens(self) -> Tokens:
        """The tokens of all calls together."""
        return self._tokens("")

    def tokens_since(self, position: int, first: int) -> Tokens:
        """Of a record's calls from this attempt on, together."""
        return self._tokens("WHERE position=? AND id>=?", (position, first))

    def _tokens(self, which: str, values: Sequence[int] = ()) -> Tokens:
        row = self._db.execute(f"SELECT {_TOKENS} FROM attempts {which}", values).fetchone()
        return Tokens(*(count or 0 for count in row))

    def answer_tokens(self, position: int) -> Tokens | None:
        """Of the call that a record was answered by; None where its provider counted none."""
        row = self._db.execute(
            f"SELECT {_counted(*_PROMPT)}, {_counted('cache_read')}, {_counted('output_tokens')}, "
            "COALESCE(usage, 'null') = 'null' FROM attempts "
            "WHERE position=? AND state='settled' ORDER BY id DESC LIMIT 1",
            (position,),
        ).fetchone()
        return None if row is None or row[3] else Tokens(*row[:3])
