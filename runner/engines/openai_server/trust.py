"""Whether a server's logprobs still mean something, long after the self-test.

A server that is restarted otherwise, or whose proxy sends the requests elsewhere, may fill them
with zeros or leave them out, and every answer would count as certain. An answer whose logprobs say
so waits for another self-test, and has none where that one fails.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace

from runner.engines.self_test import logprob_problem
from runner.types import Completion, Constraint, Engine, Event, Say, notice

# One and the same probability, below certainty, for so many tokens: no model gives that.
_MOST_ALIKE, _CERTAIN = 4, -1e-5
# Free text that is certain to the last bit in so many tokens: neither.
_MOST_ZEROS = 8


class Trust:
    """``engine`` asks the server without this doubt; for one event loop."""

    def __init__(self, engine: Engine, address: str, tell: Say) -> None:
        self._engine = engine
        self._address = address
        self._tell = tell
        self._said: set[str] = set()
        self._lock = asyncio.Lock()
        self._clock = itertools.count()
        self._tested_at = -1
        self._problem: str | None = None

    async def over(self, completion: Completion, constraint: Constraint) -> Completion:
        """The same answer, without logprobs that mean nothing."""
        logprobs = completion.logprobs
        if not logprobs:
            if completion.text:
                self._say("it gives an answer no logprobs, or another text's")
            return completion
        if _made_up(logprobs):
            problem: str | None = "all tokens of an answer have the same logprob"
        elif any(logprobs):
            return completion
        elif constraint.schema is None and not constraint.labels:
            problem = "they are all exactly 0" if len(logprobs) >= _MOST_ZEROS else None
        else:
            problem = await self._tested(next(self._clock))
        if problem is None:
            return completion
        self._say(problem)
        return replace(completion, logprobs=None, top=())

    async def _tested(self, arrived: int) -> str | None:
        """What a self-test that began after the answer came says of the server."""
        async with self._lock:
            if self._tested_at < arrived:
                self._tested_at = next(self._clock)
                self._problem = await logprob_problem(self._engine)
            return self._problem

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            said = (
                f"the logprobs of the server at {self._address} cannot be relied on: {problem}; "
                "such answers have no confidence, and none of them is accepted for being sure"
            )
            self._tell(notice(Event.LOGPROBS_DOUBTED, said, url=self._address, problem=problem))


def _made_up(logprobs: Sequence[float]) -> bool:
    alike = len(logprobs) >= _MOST_ALIKE and len(set(logprobs)) == 1
    return alike and logprobs[0] < _CERTAIN
