"""Every test question of CLINC150 through the demo model, once, with every look at the answers."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from escalation.certify.scorer import signals_of, with_looks
from runner.answering.check import Checker
from runner.answering.extra_signals import Looks
from runner.answering.prompts import Renderer
from runner.engines.vllm.engine import VllmEngine
from runner.job import Local
from runner.types import Answer, Completion, Constraint, Record, Sampling

DEMO = Path(__file__).resolve().parents[3] / "configs" / "demo"
SYSTEM = "Answer with the intent of the customer's message."
WORDINGS = ("Read the message and return its intent.",)
SAMPLES = 5
TOP = 20

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Question:
    """``features``: the signals that a calibration weighs; ``row``: what the peers are given."""

    text: str
    answer: str
    wrong: bool
    inside: bool
    features: Mapping[str, float]
    signals: Mapping[str, float]
    row: Mapping[str, Any]


def questions() -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(text, right label) of 4,500 in-scope and 1,000 out-of-scope ("") test questions, and the
    labels."""
    with gzip.open(DEMO / "clinc150" / "data_full.json.gz", "rt", encoding="utf-8") as file:
        data = json.load(file)
    asked = [*map(tuple, data["test"]), *((text, "") for text, _ in data["oos_test"])]
    return asked, tuple(sorted({label for _, label in data["train"]}))


def answer_all() -> list[Question]:
    asked, labels = questions()
    constraint = Constraint(labels=labels)
    checker, renderer = Checker(constraint), Renderer(SYSTEM, "{{ text }}", constraint)
    sampling = Sampling(max_tokens=16, top_logprobs=TOP)
    wordings = [Renderer(wording, "{{ text }}", constraint) for wording in WORDINGS]
    looks = Looks(True, wordings, SAMPLES, checker, sampling, always=True)
    local = Local(model="demo", cpu_threads=1, engine_args={"dtype": "float32"})
    engine = VllmEngine(str(DEMO / "model"), local)
    heard: dict[int, tuple[str, ...]] = {}

    async def ask(number: int, text: str, right: str) -> Question:
        record = Record(number, str(number), {"text": text}, number)
        prompt = renderer.render(record)
        completion = await engine.generate(prompt, sampling)
        answer = checker.check(completion)
        found = await looks.take(_Listening(engine, number, heard), record, prompt, answer)
        features = with_looks(signals_of(answer), found).get("", {})
        return _question(text, right, completion, answer, features, heard.get(number, ()))

    async def all_of_them() -> list[Question]:
        found = await asyncio.gather(*(ask(n, *pair) for n, pair in enumerate(asked)))
        await engine.aclose()
        return found

    return asyncio.run(all_of_them())


class _Listening:
    """The engine, and what its samples said: the peers are given the same ones."""

    def __init__(self, engine: VllmEngine, number: int, heard: dict[int, tuple[str, ...]]) -> None:
        self.window = engine.window
        self._engine, self._number, self._heard = engine, number, heard

    async def generate(self, prompt: Any, sampling: Sampling) -> Completion:
        completion = await self._engine.generate(prompt, sampling)
        if completion.samples:
            self._heard[self._number] = completion.samples
        return completion

    async def aclose(self) -> None:
        return None


def _question(
    text: str,
    right: str,
    completion: Completion,
    answer: Answer,
    features: Mapping[str, float],
    samples: tuple[str, ...],
) -> Question:
    row = {
        "prompt": text,
        "system": SYSTEM,
        "text": completion.text,
        "tokens": list(completion.tokens),
        "logprobs": list(completion.logprobs or ()),
        "top_logprobs": [list(map(list, each)) for each in completion.top],
        "samples": list(samples),
    }
    wrong, inside = answer.value != right, right != ""
    return Question(text, completion.text, wrong, inside, features, dict(answer.signals), row)
