"""The run's memory: one SQLite file in the run directory, written by one process at a time.

Outcomes are committed in groups (a kill loses some local answers, which are simply made again).
What concerns money is committed, with everything before it, the moment it is said: an attempt
and its worst-case reservation before anything is sent, its cost together with the outcome that
it bought. Money columns hold integer pico-dollars (1e-12 USD), exact for every price per million
tokens with up to six decimals, so that SQL's sums are exact too.
"""

from __future__ import annotations

from runner.ledger.attempts import Attempts, Egress, Intent
from runner.ledger.batches import IN_BATCH, Batch
from runner.ledger.opening import open_ledger, read_ledger
from runner.ledger.queue import CHOOSING
from runner.ledger.store import Held, Ledger

__all__ = [
    "CHOOSING",
    "IN_BATCH",
    "Attempts",
    "Batch",
    "Egress",
    "Held",
    "Intent",
    "Ledger",
    "open_ledger",
    "read_ledger",
]
