"""A local model of which every answer is laid down, a closed one that is right, or is told, and a
clock that a test moves."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import Result

from runner.answering.extra_signals import QUESTION
from runner.errors import RecordError
from runner.types import Completion, Prompt, Reason, Sampling, Usage
from tests import jobs
from tests.fakes import surelocal

LOCAL = {"model": str(jobs.DEMO_MODEL)}
VALUES = ("lost_card", "card_arrival")


@dataclass(frozen=True, slots=True)
class Case:
    """One record: the right answer, the local one with its probability (None: an invalid one),
    and how probable the model finds its own answer when it is asked."""

    id: str
    truth: str
    says: str
    probability: float | None
    p_true: float = 0.5
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return self.probability is None or self.says != self.truth

    @property
    def row(self) -> dict[str, Any]:
        [row] = jobs.records([self.id], "local", **self.fields)
        return row


def case(name: str, probability: float | None = 0.99, *, wrong: bool = False, **keys: Any) -> Case:
    truth = VALUES[sum(map(ord, name)) % 2]
    says = VALUES[1 - VALUES.index(truth)] if wrong else truth
    return Case(name, truth, says, probability, keys.pop("p_true", 0.5), keys)


def cases(
    n: int, *, sure_wrong: float = 0.0, seed: int = 0, prefix: str = "R", **fields: Any
) -> list[Case]:
    """Seven of ten are sure, and wrong at that rate; the others are not, and wrong at 40 %."""
    draw = random.Random(f"{seed}{prefix}")
    found = []
    for number in range(n):
        sure = draw.random() < 0.7
        probability = draw.uniform(0.95, 0.999) if sure else draw.uniform(0.3, 0.8)
        wrong = draw.random() < (sure_wrong if sure else 0.4)
        p_true = draw.uniform(0.0, 0.85) if wrong else draw.uniform(0.15, 1.0)
        name = f"{prefix}-{number:04}"
        found.append(case(name, probability, wrong=wrong, p_true=p_true, **fields))
    return found


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Model:
    """The local model. ``asked`` counts its requests by kind."""

    def __init__(self, known: Iterable[Case]) -> None:
        self.window = 8
        self.asked: dict[str, int] = {}
        self.too_long: Callable[[str], bool] = lambda kind: False
        self._known = {one.id: one for one in known}

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        one = self._known[name_in(" ".join(m.content for m in prompt.messages))]
        kind = _kind(prompt, sampling)
        self.asked[kind] = self.asked.get(kind, 0) + 1
        if self.too_long(kind):
            raise RecordError("the prompt is too long", Reason.BAD_PROMPT)
        if kind == "p_true":
            yes = one.p_true >= 0.5
            return _said("yes" if yes else "no", max(one.p_true, 1 - one.p_true))
        if one.probability is None:
            return _said("nothing of the kind", 0.5)
        said = _said(json.dumps({"intent": one.says}), one.probability)
        if kind != "samples":
            return said
        # The same value in another spelling, as samples come.
        texts = [json.dumps({"intent": one.says}, indent=n) for n in range(sampling.n)]
        return Completion(texts[0], "small", "stop", samples=tuple(texts))

    async def aclose(self) -> None:
        return None


def _kind(prompt: Prompt, sampling: Sampling) -> str:
    if prompt.messages[-1].content == QUESTION:
        return "p_true"
    if sampling.n > 1:
        return "samples"
    return "wording" if prompt.messages[0].content.startswith("Otherwise") else "answer"


def _said(text: str, probability: float) -> Completion:
    logprobs = (math.log(probability),)
    return Completion(text, "small", "stop", (text,), logprobs, Usage(9, 1))


def name_in(text: str) -> str:
    found = re.search(r"<([^>]+)>", text)
    assert found is not None
    return found[1]


def oracle(known: Iterable[Case], told: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """What the closed model answers: the truth, or what it is told to."""
    answers = {one.id: one.truth for one in known} | dict(told or {})
    return lambda text: answers[name_in(text)]


def job(
    folder: Path,
    url: str,
    given: Iterable[Case],
    confidence: Mapping[str, Any],
    escalation: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Path:
    usual = {"concurrency": 16, "budget_usd": 50}
    return jobs.write_job(
        folder,
        url,
        [one.row for one in given],
        {**usual, **(escalation or {})},
        **{"local": LOCAL, "confidence": {"reference": 0, **confidence}, **keys},
    )


def labels(folder: Path, given: Iterable[Case]) -> Path:
    path = folder / "labels.jsonl"
    lines = [json.dumps({"id": one.id, "intent": one.truth}) for one in given]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def calibrate(job_file: Path, *options: object, status: int = 0) -> Result:
    """`surelocal calibrate` with the run directory that `tests.jobs.run` uses."""
    result = surelocal("calibrate", job_file, "--run-dir", job_file.parent / "run", *options)
    assert result.exit_code == status, result.stderr
    return result
