"""Dollars as exact integers."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

PICO = Decimal("1e-12")


def to_pico(usd: Decimal) -> int:
    """Rounded up: a reservation or a cost is never understated."""
    return int((usd / PICO).to_integral_value(ROUND_CEILING))


def from_pico(pico: int | None) -> Decimal:
    return Decimal(pico or 0) * PICO
