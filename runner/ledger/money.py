"""Dollars as exact integers."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

PICO = Decimal("1e-12")
NOTHING = 0 * PICO


def to_pico(usd: Decimal) -> int:
    """Rounded up: a reservation or a cost is never understated."""
    if not usd:
        return 0
    return int((usd / PICO).to_integral_value(ROUND_CEILING))


def from_pico(pico: int | None) -> Decimal:
    return Decimal(pico) * PICO if pico else NOTHING
