"""What the engines' tests share: the demo's prompts, and how an engine is asked."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from runner.engines.openai_server.engine import OpenAIServerEngine
from runner.job import Local
from runner.types import Completion, Constraint, Engine, Message, Prompt, Sampling

# Of every module here: a real model is loaded; and vLLM's own call of xgrammar, without which no
# grammar would compile under `error`.
SLOW = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated:DeprecationWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
MODEL = str(DEMO / "model")
DOMAINS = json.loads((DEMO / "clinc150" / "domains.json").read_text("utf-8"))
INTENTS = tuple(intent for intents in DOMAINS.values() for intent in intents)
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": list(INTENTS)}, "domain": {"enum": list(DOMAINS)}},
    "required": ["intent", "domain"],
    "additionalProperties": False,
}
AS_JSON = Constraint(schema=SCHEMA)
AS_JSON_SYSTEM = "Answer with the intent and the domain of the customer's message as JSON."
LABEL_SYSTEM = "Answer with the intent of the customer's message."
GREEDY = Sampling(temperature=0.0, max_tokens=64)
KEY = "a-key-of-the-tests"
KEY_ENV = "SURELOCAL_TEST_SERVER_KEY"
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


def messages(count: int) -> list[str]:
    with (DEMO / "records.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        rows = (row for row in csv.DictReader(file) if None not in row)  # too many cells
        good = (row["message"] for row in rows if row["kind"] == "message" and row["message"])
        return list(itertools.islice((text for text in good if "\ufffd" not in text), count))


def prompts(texts: Sequence[str], constraint: Constraint = AS_JSON) -> list[Prompt]:
    system = AS_JSON_SYSTEM if constraint.schema else LABEL_SYSTEM
    return [
        Prompt((Message("system", system), Message("user", text)), constraint) for text in texts
    ]


class Server:
    """Where the server is; `ask` connects to it."""

    window = 64

    def __init__(self, url: str, model: str = "demo") -> None:
        self._local = Local(model=model, base_url=url, api_key_env=KEY_ENV)

    def connect(self) -> OpenAIServerEngine:
        return OpenAIServerEngine(self._local)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        [completion] = await ask(self, [prompt], sampling)
        return completion

    async def aclose(self) -> None:
        pass


async def ask(engine: Engine, asked: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
    # A connection belongs to its event loop, and each test has its own.
    used = engine.connect() if isinstance(engine, Server) else engine
    try:
        return list(await asyncio.gather(*(used.generate(p, sampling) for p in asked)))
    finally:
        if used is not engine:
            await used.aclose()


def answers(
    engine: Engine, asked: Sequence[Prompt], sampling: Sampling = GREEDY
) -> list[Completion]:
    return asyncio.run(ask(engine, asked, sampling))
