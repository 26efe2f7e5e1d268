"""Rate limits that are kept and told: a 429 where a request is too much, headers on each reply.

Windows are fixed: all of a limit is there again at once, when its window is over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(slots=True)
class Limits:
    """``most``: requests, input-tokens and output-tokens of a window. Input is estimated from the
    body, output charged when it is known. ``told``: headers say what remains, and a 429 for how
    long to wait."""

    most: Mapping[str, int]
    window_s: float = 60.0
    told: bool = True
    _used: dict[str, int] = field(default_factory=dict)
    _began: float = 0.0

    def admit(self, body: bytes) -> bool:
        self._roll()
        wants = {"requests": 1, "input-tokens": len(body) // 4, "output-tokens": 0}
        if any(self._left(name) < max(wants[name], 1) for name in self.most):
            return False
        for name in self.most:
            self._used[name] = self._used.get(name, 0) + wants[name]
        return True

    def produced(self, tokens: int) -> None:
        self._used["output-tokens"] = self._used.get("output-tokens", 0) + tokens

    def retry_after(self) -> str | None:
        return f"{self._resets_in():.3f}" if self.told else None

    def headers(self, id_header: str) -> dict[str, str]:
        """In the words of the API whose replies have their request's id under this header."""
        self._roll()
        found: dict[str, str] = {}
        for name, limit in self.most.items() if self.told else ():
            remaining = str(max(0, self._left(name)))
            if id_header == "request-id":
                at = datetime.fromtimestamp(self._began + self.window_s, UTC)
                values = (str(limit), remaining, at.isoformat().replace("+00:00", "Z"))
                keys = [f"anthropic-ratelimit-{name}-{p}" for p in ("limit", "remaining", "reset")]
            else:
                values = (str(limit), remaining, f"{self._resets_in() * 1000:.0f}ms")
                what = "requests" if name == "requests" else "tokens"
                keys = [f"x-ratelimit-{p}-{what}" for p in ("limit", "remaining", "reset")]
            found |= dict(zip(keys, values, strict=True))
        return found

    def _left(self, name: str) -> int:
        return self.most[name] - self._used.get(name, 0)

    def _resets_in(self) -> float:
        return max(0.0, self._began + self.window_s - time.time())

    def _roll(self) -> None:
        if time.time() >= self._began + self.window_s:
            self._began, self._used = time.time(), {}
