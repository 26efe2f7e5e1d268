"""An engine's process that is stopped or hangs: it is noticed, told, ended, and another goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.engines.process import child
from runner.engines.process.child import ChildEngine
from runner.engines.process.process import Started
from runner.engines.process.pulse import Rhythm, Ticking
from runner.engines.process.reviving import Reviving
from runner.errors import EngineDied, EngineError
from runner.types import Message, Prompt, Sampling
from tests import jobs, serving
from tests.engines.odd import Odd, hold, stop, stop_core, work
from tests.jobs import NO_KEY, Ran, run, use_engine, wait_until
from tests.scripted import LOCAL

pytestmark = pytest.mark.slow
QUICK = Rhythm(beat_s=0.1, silent_s=3.0, busy_s=30.0, load_s=10.0)
RECORDS = 24


def start(
    mark: Path,
    loading: Callable[[], None] | None,
    asked: Callable[[], None] | None,
    thrift: int = 0,
) -> ChildEngine:
    return ChildEngine(partial(Odd, mark, loading, asked), Started(rhythm=QUICK))


def ran(patch: pytest.MonkeyPatch, folder: Path, **odd: Callable[[], None]) -> Ran:
    made = partial(start, folder / "mark", odd.get("loading"), odd.get("asked"))
    folder.mkdir()
    use_engine(patch, Reviving(made, pause_s=0))
    rows = jobs.records([f"R-{n:03}" for n in range(RECORDS)], "local")
    return run(jobs.write_job(folder, "http://127.0.0.1:9", rows, local=LOCAL), NO_KEY)


def deaths(run_: Ran) -> list[str]:
    return [text for text in run_.said if "died" in text]


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"asked": stop}, "its process was stopped from outside, no sign of life for 3 s"),
        ({"asked": stop_core}, "its process was stopped from outside, no sign of life for 3 s"),
        ({"asked": hold}, "its process hangs, no sign of life for 3 s"),
        ({"loading": stop}, "its process was stopped from outside, no sign of life for 3 s"),
        ({"loading": hold}, "its process hangs, no sign of life for 3 s"),
        ({"loading": partial(time.sleep, 600)}, "it was not loaded within 10 s"),
    ],
)
def test_it_is_told_and_the_run_comes_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any], words: str
) -> None:
    run_ = ran(monkeypatch, tmp_path / "odd", **odd)
    [said] = deaths(run_)
    assert said.startswith(f"the engine died ({words}): it is started again")
    assert len(run_.rows) == RECORDS
    assert {(r["status"], r["reason"]) for r in run_.rows.values()} == {("done", "confident")}


@pytest.mark.parametrize(
    "odd", [{"asked": partial(time.sleep, 4)}, {"loading": partial(time.sleep, 4)}]
)
def test_a_slow_one_is_not_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any]
) -> None:
    run_ = ran(monkeypatch, tmp_path / "slow", **odd)
    assert deaths(run_) == []
    assert len(run_.rows) == RECORDS


def test_one_that_is_at_work_while_it_loads_has_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = ran(monkeypatch, tmp_path / "busy", loading=partial(work, 7))
    assert deaths(run_) == []


def test_a_leap_of_the_clock_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("runner.engines.process.pulse.time.monotonic", lambda: now[0])
    ticking = Ticking(1.0)
    now[0] += 0.7
    assert ticking.passed() == pytest.approx(0.7)
    now[0] += 3600  # the machine, or this process, was suspended
    assert ticking.passed() == 2.0


def test_closing_one_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_CLOSING_S", 1.0)
    engine = start(tmp_path / "mark", None, None)
    os.kill(engine.pid, signal.SIGSTOP)
    began = time.monotonic()
    asyncio.run(engine.aclose())
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{engine.pid}").exists()


def test_one_that_is_stopped_again_and_again_condemns_nobody(tmp_path: Path) -> None:
    engines = []

    def again(thrift: int) -> ChildEngine:
        engines.append(
            start(tmp_path / f"mark{len(engines)}", None, stop if len(engines) < 4 else None)
        )
        return engines[-1]

    engine = Reviving(again, pause_s=0)

    async def use() -> str:
        prompt = Prompt((Message("user", "<R-010>"),))
        try:
            return (await engine.generate(prompt, Sampling())).text
        finally:
            await engine.aclose()

    assert "intent" in asyncio.run(use())
    assert len(engines) == 5


def test_whoever_closes_waits_for_no_load(tmp_path: Path) -> None:
    from runner.engines.process.process import end_loading

    loads = [None, partial(time.sleep, 600)]

    def next_one(thrift: int) -> ChildEngine:
        return start(tmp_path / f"mark{len(loads)}", loads.pop(0), None)

    engine = Reviving(next_one, pause_s=0, abandon=end_loading)

    async def use() -> None:
        first = engine._engine
        os.kill(first.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        prompt = Prompt((Message("user", "<A>"),))
        waits = asyncio.create_task(engine.generate(prompt, Sampling()))
        await asyncio.to_thread(wait_until, lambda: not loads)
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await engine.aclose()
        assert time.monotonic() - began < 10
        with pytest.raises((EngineError, EngineDied)):
            await waits

    asyncio.run(use())


def test_under_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Reviving(partial(start, tmp_path / "mark", None, stop), pause_s=0)
    with serving.serving(monkeypatch, serving.write(tmp_path), engine) as server:
        reply = server.ask("<R-010>")
        assert "intent" in reply.choices[0].message.content
        assert any("stopped from outside" in text for text in server.said)
