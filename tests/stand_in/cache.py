"""The prompt cache: a prefix that ends in a breakpoint is written once, then read.

An entry counts from the end of the request that wrote it: requests that run side by side with the
first all pay for the write, as they do at the real API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from .tokens import Block, prefix_key

TTL_S: Final[dict[str, float]] = {"5m": 300.0, "1h": 3600.0}
# Shorter prefixes are silently not cached. Models without a known figure take the largest one.
MINIMUM: Final[dict[str, int]] = {
    "claude-sonnet-5-5": 512,
    "claude-opus-5-5": 512,
    "claude-fable-5-1": 512,
    "claude-sonnet-5": 1024,
    "gpt-6.1-sol": 1024,
    "gemini-3.8-flash": 1024,
}
_LARGEST_MINIMUM = 4096


@dataclass(slots=True)
class Split:
    """How a prompt's tokens divide, and which entries the request leaves behind."""

    fresh: int = 0
    read: int = 0
    written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TTL_S, 0))
    entries: dict[str, str] = field(default_factory=dict)  # key → ttl


class Cache:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._until: dict[str, float] = {}

    def look(self, model: str, blocks: list[Block]) -> Split:
        """The longest live prefix up to the last breakpoint is read, the rest up to it written."""
        minimum = MINIMUM.get(model, _LARGEST_MINIMUM)
        split, read_to, written_to, total = Split(), 0, 0, 0
        marks: list[tuple[int, str, str]] = []
        last = max((n for n, block in enumerate(blocks) if block.ttl), default=-1)
        for n, block in enumerate(blocks):
            total += block.tokens
            if n > last or total < minimum:
                continue
            key = prefix_key(model, blocks[: n + 1])
            if self._until.get(key, 0.0) > self.clock():
                read_to = total
            if block.ttl:
                marks.append((total, block.ttl, key))
        written_to = read_to
        for end, ttl, key in marks:
            split.entries[key] = ttl
            split.written[ttl] += max(0, end - written_to)
            written_to = max(written_to, end)
        split.read, split.fresh = read_to, total - written_to
        return split

    def keep(self, split: Split) -> None:
        """A read refreshes the entry as well."""
        for key, ttl in split.entries.items():
            self._until[key] = max(self._until.get(key, 0.0), self.clock() + TTL_S[ttl])
