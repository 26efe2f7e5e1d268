"""What passes between a run and its engine's process, `runner.engines.process.child` and
`runner.engines.process.host`."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from runner.errors import EngineError, RecordError, SureLocalError, UsageError
from runner.types import Constraint, Message, Sampling

Kind = tuple[Constraint, Sampling]
Ask = tuple[int, tuple[Message, ...], int, Kind | None]
"""(number, messages, the kind's number, and the kind itself where it is new)."""
Asks = list[Ask]
KINDS = 8
"""So many of the latest kinds are remembered at both ends."""
GONE = "gone"
"""The kind of failure where one of the engine's processes has ended; its status is the sentence."""
RELEASE = "release"
"""The run is through, and the engine may wait for another."""
Reply = tuple[int, Any]
"""(number, a completion, or a failure as `told` gives it)."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is loaded. ``asks_for``: its memory in words; ``kept``: it outlives the run."""

    window: int
    asks_for: str
    pid: int
    kept: bool = False


def told(error: BaseException) -> tuple[str, str, str]:
    """An error as (kind, sentence, reason): not every one of ours survives pickling."""
    if isinstance(error, RecordError):
        return "record", str(error), str(error.reason)
    if isinstance(error, UsageError):
        return "usage", str(error), ""
    if isinstance(error, SureLocalError):
        return "engine", str(error), ""
    traceback.print_exception(error)
    return "engine", f"{type(error).__name__}: {error}".splitlines()[0], ""


def failure(reply: tuple[str, str, str]) -> SureLocalError:
    """The error that `told` told of."""
    kind, said, reason = reply
    if kind == "record":
        return RecordError(said, reason)
    return UsageError(said) if kind == "usage" else EngineError(said)
