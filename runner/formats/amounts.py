"""Amounts of money and time as people read them."""

from __future__ import annotations

from decimal import Decimal


def usd(amount: Decimal | float) -> str:
    """To the cent from ten cents up; below, to four digits, or 0."""
    if not amount:
        return "$0"
    if abs(float(amount)) >= 0.1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if float(amount) >= 0.00005 else "< $0.0001"


def duration(seconds: float, *, finely: bool = False) -> str:
    """In the unit that fits; ``finely``: below ten seconds with a tenth, below one in
    milliseconds."""
    if finely and seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s" if finely and seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
