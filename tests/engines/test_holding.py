"""What answers are held to: the job's own constraint first, white space bounded, and what vLLM will
not take is a sentence, after which it goes on."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest

from runner.answering.schemas import Schema
from runner.engines.self_test import logprob_problem
from runner.engines.transformers.engine import TransformersEngine
from runner.engines.vllm import insides
from runner.engines.vllm.engine import VllmEngine
from runner.errors import RecordError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Engine, Message, Prompt, Sampling
from tests.engines.asking import MODEL, SLOW

pytestmark = SLOW

TEXTS = ("my card was declined", "set a timer for five minutes", "tell me a joke")
SYSTEM = "Answer with the intent of the customer's message."
FOUR = {"type": "string", "pattern": "^[a-z]+$", "maxLength": 4}


def of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties),
        "additionalProperties": False,
    }  # fmt: skip


INTENT = {"enum": ["timer", "weather", "card_declined"]}
LISTS = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3}
NUMBERS = of(n={"type": "integer", "minimum": 1, "maximum": 5}, ok={"type": "boolean"})
SCHEMAS = {
    "boolean": of(intent=INTENT, urgent={"type": "boolean"}),
    "nested": of(intent=INTENT, tags=LISTS, sub=NUMBERS),
    "formats": of(
        d={"type": "string", "format": "date"},
        p={"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
        n={"type": "integer", "minimum": 0, "maximum": 1},
    ),
    "reference": of(intent={"$ref": "#/$defs/I"}, ok={"type": "boolean"})
    | {"$defs": {"I": INTENT}},
}
# What vLLM refuses: a schema, or a setting.
REFUSED: list[tuple[Any, dict[str, Any]]] = [
    (of(a={"enum": []}), {}),
    (of(a={"$ref": "#/$defs/Nope"}), {}),
    (of(a={"type": "integer", "minimum": 5, "maximum": 1}), {}),
    (of(a={"type": "string", "pattern": "(a"}), {}),
    (of(a={"type": "array", "uniqueItems": True, "items": INTENT}), {}),
    (None, {"top_p": 5}),
    (None, {"top_k": "many"}),
    (None, {"logit_bias": {999_999: 5}}),
    (None, {"logit_bias": [1]}),
    (None, {"allowed_token_ids": []}),
    (None, {"no_such_setting": 1}),
]


def asked(
    engine: Engine,
    schema: dict[str, Any] | None,
    texts: tuple[str, ...] = TEXTS,
    most: int = 100,
    **extra: Any,
) -> list[Completion]:
    async def all_of_them() -> list[Completion]:
        given = Constraint(schema=schema)
        prompts = [Prompt((Message("system", SYSTEM), Message("user", t)), given) for t in texts]
        settings = Sampling(max_tokens=most, extra=extra)
        return await asyncio.gather(*(engine.generate(prompt, settings) for prompt in prompts))

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def held() -> Iterator[VllmEngine]:
    """For a schema that xgrammar cannot hold all of, and asked for labels first."""
    arguments = {"dtype": "float32", "max_num_seqs": 16}
    local = Local(model=MODEL, engine_args=arguments, cpu_threads=1)
    engine = VllmEngine(MODEL, local, held_to=Constraint(schema=of(p=FOUR)))
    assert asyncio.run(logprob_problem(engine)) is None
    yield engine
    asyncio.run(engine.aclose())


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("which", ["vllm_engine", "transformers_engine", "held"])
def test_every_answer_is_json_that_fits(
    name: str, which: str, request: pytest.FixtureRequest
) -> None:
    engine: VllmEngine | TransformersEngine = request.getfixturevalue(which)
    for answer in asked(engine, SCHEMAS[name]):
        assert Schema(SCHEMAS[name]).fits(json.loads(answer.text)), answer.text


def test_the_jobs_own_constraint_comes_first(held: VllmEngine) -> None:
    for answer in asked(held, of(p=FOUR)):
        assert Schema(of(p=FOUR)).fits(json.loads(answer.text)), answer.text


@pytest.mark.parametrize(("schema", "extra"), REFUSED)
def test_a_refusal_is_no_death(
    vllm_engine: VllmEngine, schema: dict[str, Any] | None, extra: dict[str, Any]
) -> None:
    with pytest.raises((UsageError, RecordError)) as raised:
        asked(vllm_engine, schema, TEXTS[:1], **extra)
    assert "\n" not in str(raised.value)
    assert "stopped" not in str(raised.value)
    assert asked(vllm_engine, SCHEMAS["boolean"], TEXTS[:1])


def test_what_all_records_share_is_refused_before_the_first() -> None:
    local = Local(model=MODEL, engine_args={"dtype": "float32"}, cpu_threads=1)
    with pytest.raises(UsageError, match=r"answer\.schema .*uniqueItems"):
        VllmEngine(MODEL, local, held_to=Constraint(schema=REFUSED[4][0]))


def test_vllm_has_what_we_reach_for() -> None:
    """The places of `runner.engines.vllm.insides`."""
    from vllm import LLMEngine, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for name in ("_sample", "_bookkeeping_sync"):
        assert callable(getattr(GPUModelRunner, name)), name
    assert "discard_request_mask" in inspect.getsource(GPUModelRunner)
    params = SamplingParams(structured_outputs=StructuredOutputsParams(choice=["a"]))
    verified = ["model_config", "speculative_config", "structured_outputs_config", "tokenizer"]
    assert list(inspect.signature(params.verify).parameters)[:4] == verified
    assert params.structured_outputs is not None and params.structured_outputs._backend is None
    assert not insides.is_shared(params)
    insides.share(params)
    assert insides.is_shared(params) and "skip_clone" in inspect.getsource(SamplingParams.clone)
    assert list(inspect.signature(validate_xgrammar_grammar).parameters) == ["sampling_params"]
    made = inspect.getsource(LLMEngine)
    for name in ("engine_core", "input_processor", "get_supported_tasks", "collective_rpc"):
        assert name in made, name
