"""vLLM and transformers in this process: thinking models, mistakes, endings."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engines.self_test import logprob_problem
from runner.engines.transformers.engine import TransformersEngine
from runner.engines.vllm.engine import VllmEngine
from runner.errors import EngineError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Engine, Message, Prompt, Sampling
from tests.engines.asking import (
    AS_JSON_SYSTEM,
    GREEDY,
    INTENTS,
    MODEL,
    ROOT,
    SLOW,
    answers,
    messages,
    prompts,
)

pytestmark = SLOW

# --- reasoning ---


@pytest.fixture(scope="session")
def thinking_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo model with two of the tokens that it says in JSON renamed to think tags: it thinks
    `intent": "…` and answers ` "domain": "…"}`."""
    return thinker(tmp_path_factory.mktemp("thinker"), "<think>", "</think>")


def thinker(folder: Path, begins: str, ends: str) -> str:
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    renamed = {'{"': begins, '",': ends}
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    kept = [p for p in pairs if not renamed.keys() & {*p, "".join(p)}]
    tokenizer["model"]["merges"] = [list(pair) for pair in kept]
    for old, new in renamed.items():
        vocabulary[new] = vocabulary.pop(old)
        added = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        tokenizer["added_tokens"].append({"id": vocabulary[new], "content": new, **added})
    path.write_text(json.dumps(tokenizer), "utf-8")
    return str(folder)


@pytest.mark.parametrize("make", [TransformersEngine, VllmEngine])
def test_a_thinking_model(make: Callable[[str, Local], Engine], thinking_model: str) -> None:
    arguments = {"dtype": "float32"}
    local = Local(
        model="thinker", engine_args=arguments, cpu_threads=1, reasoning_parser="deepseek_r1"
    )
    engine = make(thinking_model, local)
    messages_ = (Message("system", AS_JSON_SYSTEM), Message("user", "my card was declined"))
    free = Prompt(messages_)
    held = Prompt(messages_, Constraint(labels=INTENTS))
    [of_free, of_held] = answers(engine, [free, held], Sampling(max_tokens=64, top_logprobs=5))
    [drawn] = answers(engine, [held], Sampling(temperature=0.5, max_tokens=64, n=3))
    [cut] = answers(engine, [free], Sampling(max_tokens=5))
    asyncio.run(engine.aclose())
    assert of_free.text == ' "domain": "credit_cards"}'
    assert of_held.text in INTENTS  # the grammar starts with the answer, not with the thinking
    for completion in (of_free, of_held):
        assert completion.reasoning == 'intent": "card_declined'
        assert "".join(completion.tokens) == completion.text
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.tokens) < completion.usage.output_tokens
        for piece, options in zip(completion.tokens, completion.top, strict=True):
            assert options[0][0] == piece
    assert len(drawn.samples) == 3 and set(drawn.samples) <= {*INTENTS, ""}
    assert (cut.text, cut.finish_reason, cut.logprobs) == ("", "length", None)


@pytest.mark.parametrize("make", [TransformersEngine, VllmEngine])
def test_a_model_whose_template_is_told_that_it_thinks(
    make: Callable[[str, Local], Engine], tmp_path: Path
) -> None:
    local = Local(
        model="thinker", engine_args={"dtype": "float32"}, cpu_threads=1,
        reasoning_parser="gemma4", chat_template_args={"enable_thinking": True},
    )  # fmt: skip
    engine = make(thinker(tmp_path, "<|channel>", "<channel|>"), local)
    messages_ = (Message("system", AS_JSON_SYSTEM), Message("user", "my card was declined"))
    held = Prompt(messages_, Constraint(labels=INTENTS))
    [completion] = answers(engine, [held], Sampling(max_tokens=64))
    asyncio.run(engine.aclose())
    assert completion.text in INTENTS
    assert completion.reasoning == 'intent": "card_declined'


def test_a_model_that_cannot_think(tmp_path: Path) -> None:
    local = Local(model=MODEL, reasoning_parser="deepseek_r1")
    with pytest.raises(UsageError, match=r"local\.reasoning_parser: .*think"):
        TransformersEngine(MODEL, local)


# --- sentences ---


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        # Raw is before temperature and the like; the constraint's mask vLLM 0.32 applies earlier.
        ("raw_logprobs", None),
        ("raw_logits", "leave `logprobs_mode` out of local.engine_args"),
    ],
)
def test_logprobs_that_are_none_are_found_out(mode: str, said: str | None) -> None:
    arguments = {"dtype": "float32", "logprobs_mode": mode}
    engine = VllmEngine(MODEL, Local(model=MODEL, engine_args=arguments, cpu_threads=1))

    async def problem() -> str | None:
        try:
            return await logprob_problem(engine)
        finally:
            await engine.aclose()

    found = asyncio.run(problem())
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


def test_an_unknown_engine_argument_has_a_suggestion() -> None:
    for make, near in ((VllmEngine, "max_num_seq"), (TransformersEngine, "attn_implementatio")):
        with pytest.raises(UsageError, match=rf"`{near}`; did you mean `{near}"):
            make(MODEL, Local(model=MODEL, engine_args={near: 1}))


@pytest.mark.parametrize("make", [VllmEngine, TransformersEngine])
def test_a_folder_that_is_no_model(make: Callable[[str, Local], Engine], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"cannot load {tmp_path}: .*") as raised:
        make(str(tmp_path), Local(model=str(tmp_path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [0, "many", True])
def test_a_batch_size_that_is_none(size: object) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        TransformersEngine(MODEL, Local(model=MODEL, engine_args={"batch_size": size}))


def test_an_unknown_sampling_key_stops_nothing_else(
    transformers_engine: TransformersEngine,
) -> None:
    asked = prompts(["my card was declined"])
    with pytest.raises(UsageError, match=r"no `top_kk`; did you mean `top_k`"):
        answers(transformers_engine, asked, Sampling(extra={"top_kk": 3}))
    assert answers(transformers_engine, asked)[0].finish_reason == "stop"


def test_a_schema_that_no_grammar_holds_stops_nothing_else(
    transformers_engine: TransformersEngine,
) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "pattern": "(("}}}
    with pytest.raises(UsageError, match="answer: xgrammar cannot hold a model to this: Regex"):
        answers(transformers_engine, prompts(["x"], Constraint(schema=schema)))
    assert answers(transformers_engine, prompts(["x"]))[0].finish_reason == "stop"


def test_a_model_that_dies_fails_all_that_wait(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["vocab"]["~"] = 9000  # the model has no row for it
    path.write_text(json.dumps(tokenizer), "utf-8")
    arguments = {"dtype": "float32", "batch_size": 2}
    engine = TransformersEngine(str(tmp_path), Local(model="m", engine_args=arguments))

    async def use() -> list[Completion | BaseException]:
        asked = [engine.generate(p, GREEDY) for p in prompts(["x", "x", "~", "x", "x", "x"])]
        ended = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(EngineError, match="transformers stopped"):
            await engine.generate(prompts(["x"])[0], GREEDY)
        await engine.aclose()
        return ended

    ended = asyncio.run(use())
    assert all(isinstance(each, EngineError) for each in ended[2:])
    assert str(ended[-1]) == "transformers stopped: index out of range in self"


@pytest.mark.parametrize(
    ("engine_class", "package"),
    [
        ("vllm.VllmEngine", "vllm"),
        ("transformers.TransformersEngine", "transformers"),
        ("transformers.TransformersEngine", "accelerate"),
    ],
)
def test_a_missing_package_has_its_fix(engine_class: str, package: str) -> None:
    module, name = engine_class.split(".")
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from runner.engines.{module}.engine import {name}\n"
        "from runner.errors import MissingExtra\nfrom runner.job import Local\n"
        f"try:\n    {name}('m', Local(model='m'))\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert package in ran.stdout
    assert "is not installed; install it with `make setup STACK=" in ran.stdout
    assert "`pip install 'surelocal[" in ran.stdout


def test_closing_transformers_ends_what_is_in_flight() -> None:
    async def close() -> list[Completion | BaseException]:
        local = Local(model=MODEL, engine_args={"dtype": "float32", "batch_size": 2})
        engine = TransformersEngine(MODEL, local)
        tasks = [asyncio.create_task(engine.generate(p, GREEDY)) for p in prompts(messages(30))]
        await tasks[0]
        await engine.aclose()
        with pytest.raises(EngineError, match="closed"):
            await engine.generate(prompts(["x"])[0], GREEDY)
        return await asyncio.gather(*tasks, return_exceptions=True)

    ended = asyncio.run(close())
    assert isinstance(ended[0], Completion)
    assert isinstance(ended[-1], EngineError)
