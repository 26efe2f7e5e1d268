"""Suggests the intended name for one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_SHOWN, _COMPARED = 20, 1000


def likely(name: str, columns: Sequence[str], cutoff: float = 0.5) -> str | None:
    """The most likely intended column: equal except for case, spaces and punctuation, or
    similar."""
    same = [column for column in columns if _bare(column) == _bare(name)]
    of, least = (same, 0.0) if same else (columns[:_COMPARED], cutoff)
    near = difflib.get_close_matches(name, of, n=1, cutoff=least)
    return near[0] if near else None


def listed(columns: Sequence[str]) -> str:
    """The columns for a message: the first ones, and the number of others."""
    more = len(columns) - _SHOWN
    return ", ".join(columns[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
