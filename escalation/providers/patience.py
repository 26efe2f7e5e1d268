"""How long the paid side waits for its own process before it says so and acts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds. ``beat_s``: between two signs of life of a courier; ``quiet_s``: without one, it
    is taken for dead; ``start_s``: until a new one is ready; ``slack_s``: beyond a call's own
    ``timeout_s``, until its reply must be here; ``end_s``: until one is gone that was ended."""

    beat_s: float = 5.0
    quiet_s: float = 60.0
    start_s: float = 120.0
    slack_s: float = 8.0
    end_s: float = 10.0
