"""A circuit breaker over all requests of a run, for an overloaded provider.

While it is closed, all requests pass. After several overloads in a row it opens: nothing is sent
for a cool-down, then one request is sent as a probe. A failed probe doubles the cool-down; a
successful one closes the breaker.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from escalation.providers.protocol import Reply

AFTER = 5
"""The number of overloads in a row that opens it."""
FIRST_S = 1.0
LONGEST_S = 60.0
JITTER = 0.25
POLL_S = 0.05


class Breaker:
    """Call `pause`; when it returns 0, call `begin` at once. Open for ``give_up_s``: `given_up`."""

    def __init__(
        self,
        give_up_s: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._give_up_s = give_up_s
        self._clock = clock
        self._chance = chance
        self._in_a_row = 0
        self._opened: float | None = None
        self._until = 0.0
        self._cool_downs = 0
        self._probing = False
        self.given_up = False

    @property
    def open(self) -> bool:
        return self._opened is not None

    def pause(self) -> float:
        """Seconds for which no request may begin; 0 if one may."""
        if self._opened is None:
            return 0.0
        return POLL_S if self._probing else max(0.0, self._until - self._clock())

    def begin(self) -> bool:
        """Starts a request. Returns whether it is the probe."""
        self._probing = self.open
        return self._probing

    def end(self, probe: bool, reply: Reply | None) -> None:
        """Records the outcome of a request; ``None`` if it was not sent."""
        if probe:
            self._probing = False
            if reply is not None:
                self._probed(reply)
        elif self._opened is None and reply is not None:
            self._counted(reply)

    def _counted(self, reply: Reply) -> None:
        if reply.overloaded:
            self._in_a_row += 1
            if self._in_a_row >= AFTER:
                self._opened = self._clock()
                self._cool_down()
        elif reply.verdict in ("ok", "reject"):  # a lost reply says nothing about its health
            self._in_a_row = 0

    def _probed(self, reply: Reply) -> None:
        # A lost reply may be billed, so it must not be retried often.
        if reply.overloaded or reply.verdict == "unknown":
            assert self._opened is not None
            self.given_up = self._clock() - self._opened >= self._give_up_s
            self._cool_down()
        else:
            self._opened, self._in_a_row, self._cool_downs = None, 0, 0
            self.given_up = False

    def _cool_down(self) -> None:
        assert self._opened is not None
        jittered = FIRST_S * 2.0 ** min(self._cool_downs, 30) * (1 + JITTER * self._chance())
        self._cool_downs += 1
        # The last probe is due exactly at the time of giving up.
        last = self._opened + self._give_up_s
        self._until = min(self._clock() + min(LONGEST_S, jittered), max(self._clock(), last))
