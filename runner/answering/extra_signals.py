"""Second looks at an answer: further requests to the local model, each giving one signal.

They compare *values*: another answer agrees if it parses to the same value, however it is written.
Signals are in [0, 1], for the whole answer and for each field.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.answering.check import Checker, value_of
from runner.answering.prompts import Renderer, renderer_of
from runner.errors import RecordError
from runner.job import Job
from runner.types import (
    WHOLE,
    Answer,
    Completion,
    Constraint,
    Engine,
    JSONValue,
    Message,
    Name,
    Prompt,
    Record,
    Sampling,
)

P_TRUE, WORDING, AGREEMENT = "p_true", "wording", "agreement"
QUESTION = "Is that answer right? Reply with yes or no."
_YES_NO = Constraint(labels=("yes", "no"))
_ROOM = 8

Found = dict[Name, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Looks:
    """The second looks of a job, with what they need. Made by `looks_of`."""

    p_true: bool
    wordings: Sequence[Renderer]
    samples: int
    checker: Checker
    sampling: Sampling
    always: bool

    async def take(self, engine: Engine, record: Record, prompt: Prompt, answer: Answer) -> Found:
        """Takes all looks; one that fails for this record (such as a prompt too long) is left
        out."""
        found: Found = {name: {} for name in answer.scores}
        if WHOLE not in found:
            return found  # invalid or without a probability, so signals could not be weighed
        if self.p_true:
            await self._ask_itself(engine, prompt, answer, found)
        if self.wordings:
            await self._ask_otherwise(engine, record, answer, found)
        if self.samples:
            await self._sample(engine, prompt, answer, found)
        return found

    async def _ask_itself(
        self, engine: Engine, prompt: Prompt, answer: Answer, found: Found
    ) -> None:
        said = answer.value
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        # The same messages come first, since the engine has their prefix in its cache.
        messages = (*prompt.messages, Message("assistant", text), Message("user", QUESTION))
        sampling = Sampling(0.0, _ROOM, self.sampling.seed)
        try:
            completion = await engine.generate(Prompt(messages, _YES_NO), sampling)
        except RecordError:
            return
        verdict = Checker(_YES_NO).check(completion)
        if verdict.valid and verdict.score is not None:
            found[WHOLE][P_TRUE] = verdict.score if verdict.value == "yes" else 1 - verdict.score

    async def _ask_otherwise(
        self, engine: Engine, record: Record, answer: Answer, found: Found
    ) -> None:
        seen: list[Answer] = []
        for renderer in self.wordings:
            try:
                prompt = renderer.render(record)
                sampling = prompt.sampling(self.sampling)
                seen.append(self.checker.check(await engine.generate(prompt, sampling)))
            except RecordError:
                continue
        for name, signals in found.items():
            value = value_of(answer.value, name)
            agreeing = [other.scores.get(name, 0.0) for other in seen if _same(other, name, value)]
            if seen:
                signals[WORDING] = sum(agreeing) / len(seen)

    async def _sample(self, engine: Engine, prompt: Prompt, answer: Answer, found: Found) -> None:
        usual = prompt.sampling(self.sampling)
        sampling = replace(usual, temperature=1.0, n=self.samples, top_logprobs=0)
        try:
            completion = await engine.generate(prompt, sampling)
        except RecordError:
            return
        texts = completion.samples or (completion.text,)
        seen = [self.checker.check(Completion(text, completion.model, "stop")) for text in texts]
        for name, signals in found.items():
            value = value_of(answer.value, name)
            signals[AGREEMENT] = sum(_same(other, name, value) for other in seen) / len(seen)


def looks_of(job: Job, sampling: Sampling) -> Looks | None:
    """The job's second looks, or None if it has none."""
    spec, constraint = job.confidence.looks, job.answer.constraint()
    if not spec.any():
        return None
    return Looks(
        p_true=spec.p_true,
        wordings=[renderer_of(job, system=w) for w in spec.wordings],
        samples=spec.samples,
        checker=Checker(constraint),
        sampling=sampling,
        # A budget is divided by confidence, so every look can change which records get it.
        always=spec.take == "always" or job.confidence.policy == "budget",
    )


def _same(other: Answer, name: Name, value: JSONValue) -> bool:
    return other.valid and value_of(other.value, name) == value
