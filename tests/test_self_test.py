"""The engine's own test of its logprobs, against engines that get them wrong."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable

import pytest

from runner.engines.self_test import logprob_problem
from runner.errors import EngineError, RecordError, UsageError
from runner.types import Completion, Prompt, Reason, Sampling
from tests.fakes import completion

Logprob = Callable[[int, int], float]
"""Index of a token and the index at which the labels part → the logprob that is given."""


class Asked:
    """Answers with one of the labels, a token a character; ``knows`` says by what constraints."""

    window = 1

    def __init__(self, logprob: Logprob | None, knows: str = "labels schema") -> None:
        self.logprob = logprob
        self.knows = knows
        self.asked: list[Prompt] = []

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        self.asked.append(prompt)
        constraint = prompt.constraint
        if constraint.labels and "labels" in self.knows:
            label, other = constraint.labels
            text = label
        elif constraint.schema and "schema" in self.knows:
            label, other = constraint.schema["properties"]["answer"]["enum"]
            text = json.dumps({"answer": label})
        else:
            return completion("Hello! How can I help?", [-0.1])
        pieces = [*text, ""]
        if self.logprob is None:
            return completion(text, None, pieces)
        parts = text.index(label) + next(i for i, c in enumerate(label) if c != other[i])
        logprobs = [self.logprob(i, parts) for i in range(len(pieces))]
        return completion(text, logprobs, pieces)

    async def aclose(self) -> None:
        return None


def forced(index: int, parts: int) -> float:
    return math.log(0.6) if index == parts else -1e-6


@pytest.mark.parametrize("knows", ["labels schema", "schema", "labels"])
@pytest.mark.parametrize(
    ("logprob", "said"),
    [
        (forced, None),
        (lambda index, parts: 0.0 if index == parts else -1e-7, None),
        (lambda index, parts: -3.0, "--logprobs-mode processed_logprobs"),
        (lambda index, parts: -9999.0, "--logprobs-mode processed_logprobs"),
        (lambda index, parts: -2.5 if index == parts else 0.0, "before the answer's constraint"),
        (lambda index, parts: math.nan, "(nan among them)"),
        (lambda index, parts: -math.inf if index == parts else 0.0, "(-inf among them)"),
        (lambda index, parts: 12.5, "(12.5 among them)"),
        (lambda index, parts: 0.0, "all exactly 0"),
        (None, None),
    ],
)
def test_what_is_wrong_is_said(logprob: Logprob | None, said: str | None, knows: str) -> None:
    problem = asyncio.run(logprob_problem(Asked(logprob, knows)))
    assert (problem is None) == (said is None)
    assert said is None or said in str(problem)


def test_a_choice_that_is_certain_to_the_last_bit_is_no_fault() -> None:
    engine = Asked(None)
    engine.logprob = lambda index, parts: 0.0 if len(engine.asked) == 1 else forced(index, parts)
    assert asyncio.run(logprob_problem(engine)) is None
    assert len(engine.asked) == 2


def test_an_engine_that_holds_to_no_constraint_cannot_be_judged() -> None:
    engine = Asked(forced, knows="nothing")
    assert asyncio.run(logprob_problem(engine)) is None
    assert all("qzx" not in message.content for p in engine.asked for message in p.messages)


@pytest.mark.parametrize(
    "error", [UsageError("no grammar"), RecordError("too long", Reason.BAD_PROMPT)]
)
def test_a_request_that_is_refused_cannot_be_judged(error: Exception) -> None:
    class Refuses(Asked):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
            raise error

    assert asyncio.run(logprob_problem(Refuses(forced))) is None


def test_an_engine_that_is_gone_is_said_by_itself() -> None:
    class Gone(Asked):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
            raise EngineError("no server answers")

    with pytest.raises(EngineError, match="no server answers"):
        asyncio.run(logprob_problem(Gone(forced)))


def test_a_thinking_model_gets_room_to_think() -> None:
    class Thinks(Asked):
        async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
            if sampling.max_tokens < 500:
                return completion("", None, finish_reason="length", reasoning="Let me see")
            return await super().generate(prompt, sampling)

    assert asyncio.run(logprob_problem(Thinks(lambda index, parts: -3.0))) is not None
