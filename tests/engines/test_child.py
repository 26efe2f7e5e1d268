"""An engine in a process of its own: what crosses over, and how both ends end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from runner.engines.process.child import ChildEngine
from runner.errors import EngineDied, EngineError, RecordError, UsageError
from runner.types import Completion, Constraint, Message, Prompt, Reason, Sampling
from tests.jobs import ROOT, wait_until

pytestmark = pytest.mark.process


class Echo:
    """What an engine may do, at the word of its prompt. It has a process of its own besides."""

    asks_for = "a cup of memory"

    def __init__(
        self, window: int = 4, problem: Exception | None = None, core: bool = False
    ) -> None:
        if problem is not None:
            raise problem
        sys.stdout.write("to stdout")
        self.window = window
        self._other = subprocess.Popen(["sleep", "600"])
        self._core = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        if core:
            self._core.start()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        text = prompt.messages[-1].content
        if text == "wait":
            await asyncio.sleep(600)
        if text == "long":
            raise RecordError("the prompt is too long", Reason.BAD_PROMPT)
        if text == "usage":
            raise UsageError("local.sampling: no such thing")
        if text == "memory":
            raise EngineError("vLLM stopped: CUDA out of memory")
        if text == "abort":
            os.write(2, b"terminate called after throwing std::bad_alloc")
            os.abort()
        if text == "pids":
            text = f"{os.getpid()} {self._core.pid or self._other.pid}"
        return Completion(f"{text} {prompt.constraint.labels} {sampling.seed}", "echo", "stop")

    async def aclose(self) -> None:
        self._other.kill()
        self._other.wait()


def asked(text: str, *labels: str) -> Prompt:
    return Prompt((Message("user", text),), Constraint(labels=labels or None))


def answer(engine: ChildEngine, text: str) -> str:
    return asyncio.run(engine.generate(asked(text), Sampling())).text


def pids(engine: ChildEngine) -> list[int]:
    return [int(word) for word in answer(engine, "pids").split()[:2]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def engine() -> Iterator[ChildEngine]:
    made = ChildEngine(partial(Echo, window=7))
    yield made
    asyncio.run(made.aclose())


def test_requests_and_answers_cross_over(
    engine: ChildEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    async def use() -> list[str]:
        # More kinds than are remembered, and some of them again.
        wanted = [(f"t{n}", f"l{n % 12 % 10}", n % 3) for n in range(200)]
        made = (engine.generate(asked(t, label), Sampling(seed=s)) for t, label, s in wanted)
        found = await asyncio.gather(*made)
        assert [c.text for c in found] == [f"{t} ({label!r},) {s}" for t, label, s in wanted]
        return [c.text for c in found]

    assert (engine.window, engine.asks_for) == (7, "a cup of memory")
    assert asyncio.run(use()) == asyncio.run(use())  # whatever the event loop
    assert capfd.readouterr().out == ""


def test_one_bad_request_fails_alone(engine: ChildEngine) -> None:
    with pytest.raises(RecordError, match="the prompt is too long") as raised:
        answer(engine, "long")
    assert raised.value.reason == Reason.BAD_PROMPT
    with pytest.raises(UsageError, match=r"^local\.sampling: no such thing$"):
        answer(engine, "usage")
    assert answer(engine, "fine") == "fine None 0"


def test_what_cannot_be_loaded_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    for problem, kind in (
        (UsageError("no such argument"), UsageError),
        (EngineError("vLLM cannot load m"), EngineError),
        (ValueError("odd"), EngineError),
    ):
        with pytest.raises(kind, match=str(problem)) as raised:
            ChildEngine(partial(Echo, problem=problem))
        assert not isinstance(raised.value, EngineDied)
    assert "ValueError: odd" in capfd.readouterr().err  # a fault of ours: with its traceback


async def both(engine: ChildEngine, text: str) -> list[Completion | BaseException]:
    requests = (engine.generate(asked(t), Sampling()) for t in ("wait", text))
    return await asyncio.gather(*requests, return_exceptions=True)


@pytest.mark.parametrize(
    ("text", "words", "memory"),
    [
        ("memory", "vLLM stopped: CUDA out of memory", True),
        ("abort", "its process was killed (SIGABRT)", True),
    ],
)
def test_its_death_fails_what_is_in_flight(
    engine: ChildEngine, text: str, words: str, memory: bool
) -> None:
    processes = pids(engine)
    for error in asyncio.run(both(engine, text)):
        assert isinstance(error, EngineDied)
        assert (str(error), error.lacked_memory) == (words, memory)
    with pytest.raises(EngineDied):
        answer(engine, "fine")
    wait_until(lambda: not any(map(alive, processes)))


def test_killed_from_outside(engine: ChildEngine) -> None:
    processes = pids(engine)
    assert processes[0] == engine.pid

    async def use() -> None:
        waits = asyncio.create_task(engine.generate(asked("wait"), Sampling()))
        await engine.generate(asked("fine"), Sampling())
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match=r"its process was killed \(SIGKILL\)"):
            await waits

    asyncio.run(use())
    wait_until(lambda: not any(map(alive, processes)))


def test_an_engines_own_process_killed() -> None:
    engine = ChildEngine(partial(Echo, core=True))
    processes = pids(engine)

    async def use() -> None:
        waits = asyncio.create_task(engine.generate(asked("wait"), Sampling()))
        os.kill(processes[1], signal.SIGKILL)
        with pytest.raises(EngineDied, match=r"its process was killed \(SIGKILL\)") as raised:
            await waits
        assert raised.value.by_others
        await engine.aclose()

    asyncio.run(use())
    wait_until(lambda: not any(map(alive, processes)))


def test_closing_ends_everything() -> None:
    engine = ChildEngine(Echo)
    processes = pids(engine)

    async def close() -> list[Completion | BaseException]:
        waits = asyncio.create_task(engine.generate(asked("wait"), Sampling()))
        await engine.generate(asked("fine"), Sampling())
        began = time.monotonic()
        await engine.aclose()
        assert time.monotonic() - began < 5
        with pytest.raises(EngineError, match="closed"):
            await engine.generate(asked("fine"), Sampling())
        return await asyncio.gather(waits, return_exceptions=True)

    [error] = asyncio.run(close())
    assert isinstance(error, EngineError) and not isinstance(error, EngineDied)
    wait_until(lambda: not any(map(alive, processes)))


def test_it_does_not_outlive_the_run() -> None:
    script = (
        "import time\nfrom tests.engines import test_child as t\n"
        "print(*t.pids(t.ChildEngine(t.Echo)), flush=True)\ntime.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        processes = [int(word) for word in run.stdout.readline().split()]
    assert len(processes) == 2 and all(map(alive, processes))
    run.kill()
    run.wait()
    wait_until(lambda: not any(map(alive, processes)))
