"""An engine that answers by itself, for the replicas of a real cluster: it is made over there."""

from __future__ import annotations

import os
import signal

from runner.errors import RecordError, UsageError
from runner.types import Completion, Prompt, Reason, Sampling, Usage


class Echo:
    """Says what it is told, and its process; ``die``, ``actor`` (kills the one above it) and
    ``refuse`` do that."""

    window = 4
    asks_for = "nothing"

    def __init__(self, fails: str, thrift: int) -> None:
        if fails:
            raise UsageError(fails)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        text = prompt.messages[-1].content
        if text == "die":
            os._exit(7)
        if text == "actor":
            os.kill(os.getppid(), signal.SIGKILL)
        if text == "refuse":
            raise RecordError("no room", Reason.BAD_PROMPT)
        return Completion(text, str(os.getpid()), "stop", (text,), (-0.5,), Usage(3, 1))

    async def aclose(self) -> None:
        return None
