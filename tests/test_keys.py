"""The API key is where it is needed, in the courier of paid calls, and nowhere else."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

from runner import keys
from runner.engines.process.child import ChildEngine
from runner.job.file import make_job
from runner.pipeline import load_engine
from runner.types import Completion, Prompt, Sampling
from tests.fakes import JOB

pytestmark = pytest.mark.usefixtures("true_processes")

SECRET = "sk-secret-of-the-test-0123456789"
KNOWN = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "ANTHROPIC_AUTH_TOKEN")
NAMED = ("MY_CLOSED_KEY", "MY_SERVERS_KEY")


class Nosy:
    """An engine with a process of its own, as vLLM's has."""

    def __init__(self, thrift: int = 0) -> None:
        self.window = 1
        self.other = subprocess.Popen(["sleep", "600"])
        self.asks_for = str(self.other.pid)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return Completion(repr(dict(os.environ)), "nosy", "stop")

    async def aclose(self) -> None:
        self.other.kill()


def seen_by(pid: int) -> str:
    """What a process was given: its environment and its arguments."""
    place = Path("/proc") / str(pid)
    return (place / "environ").read_text() + (place / "cmdline").read_text()


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*KNOWN, *NAMED):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    monkeypatch.setenv("HF_TOKEN", "of-the-models-hub")


@pytest.mark.slow
@pytest.mark.usefixtures("secrets")
def test_no_key_is_in_an_engines_process_or_in_its_childrens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m",
              "api_key_env": NAMED[0], "price": {"input": 1, "output": 1}}  # fmt: skip
    local = {"model": "nobody/no-model", "engine": "transformers", "api_key_env": NAMED[1]}
    job = make_job({**JOB, "local": local, "escalation": closed})
    monkeypatch.setattr(load_engine, "_maker", lambda name: partial(_nosy))
    engine = load_engine.load(job)
    try:
        child: ChildEngine = engine._engine  # type: ignore[attr-defined]
        for pid in (child.pid, int(child.asks_for)):
            seen = seen_by(pid)
            assert SECRET not in seen and "of-the-models-hub" in seen
    finally:
        import asyncio

        asyncio.run(engine.aclose())


def _nosy(model: str, local: object, thrift: int) -> Nosy:
    return Nosy(thrift)


@pytest.mark.usefixtures("secrets")
def test_an_environment_without_keys() -> None:
    assert SECRET in repr(dict(os.environ))
    keys.withhold([*NAMED, None])
    left = keys.environment()
    assert SECRET not in repr(left)
    assert left == {k: v for k, v in os.environ.items() if k not in keys.withheld()}


def test_no_key_of_a_provider_needs_to_be_named() -> None:
    assert set(KNOWN) <= keys.withheld()
