"""Counting, and the prompt cache: a prefix that ends in a breakpoint is written once, then read.

A text is a quarter of its bytes, rounded up. Block by block, so that what the cache takes and what
is left always add up to the whole count.

An entry counts from the end of the request that wrote it: requests that run side by side with the
first all pay for the write, as they do at the real API. No test is as long as an entry lives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

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

# A block of the prompt, and how long it is kept where a cache breakpoint stands: 5m or 1h.
Block = tuple[str, str | None]


def count(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


@dataclass(slots=True)
class Split:
    """How a prompt's tokens divide, and which entries the request leaves behind."""

    fresh: int = 0
    read: int = 0
    written: dict[str, int] = field(default_factory=lambda: {"5m": 0, "1h": 0})
    keys: list[str] = field(default_factory=list)


class Cache:
    def __init__(self) -> None:
        self._kept: set[str] = set()

    def look(self, model: str, blocks: Sequence[Block]) -> Split:
        """The longest kept prefix up to the last breakpoint is read, the rest up to it written."""
        minimum = MINIMUM.get(model, _LARGEST_MINIMUM)
        split, total, done = Split(), 0, 0
        marks: list[tuple[int, str]] = []
        last = max((n for n, (_, ttl) in enumerate(blocks) if ttl), default=-1)
        for n, (text, ttl) in enumerate(blocks):
            total += count(text)
            if n > last or total < minimum:
                continue
            key = json.dumps([model, *(text for text, _ in blocks[: n + 1])])
            key = hashlib.sha256(key.encode()).hexdigest()
            if key in self._kept:
                split.read = done = total
            if ttl:
                marks.append((total, ttl))
                split.keys.append(key)
        for end, ttl in marks:
            split.written[ttl] += max(0, end - done)
            done = max(done, end)
        split.fresh = total - done
        return split

    def keep(self, split: Split) -> None:
        self._kept.update(split.keys)
