"""An engine that dies is started again, and the run comes to the same results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from runner.engines.process import reviving
from runner.engines.process.death import death, kernel_kills, lacks_memory
from runner.engines.process.reviving import Reviving
from runner.engines.vllm.memory import thrifty
from runner.errors import EngineDied, EngineError, RunFailed
from runner.types import Completion, Notice, Prompt, Sampling
from tests import jobs
from tests.jobs import NO_KEY, Ran, query, run, use_engine
from tests.scripted import LOCAL, VALUES, name_in

KILLED = EngineDied("its process was killed (SIGKILL)")


class World:
    """Engines one after the other, and what kills them: ``deadly`` records, whoever else is in
    flight, and ``kills``, once so many were answered."""

    def __init__(
        self,
        deadly: Iterable[str] = (),
        kills: Iterable[int] = (),
        cause: EngineDied = KILLED,
        window: int = 8,
    ) -> None:
        self.deadly, self.kills, self.cause, self.window = set(deadly), set(kills), cause, window
        self.answered = 0
        self.thrifts: list[int] = []
        self.flights: list[list[str]] = []
        self.load: Callable[[int], None] = lambda thrift: None
        self.chance, self.slowest_s = random.Random(3), 0.002

    def start(self, thrift: int) -> One:
        self.thrifts.append(thrift)
        self.load(thrift)
        return One(self)

    def engine(self) -> Reviving:
        return Reviving(self.start, pause_s=0)


class One:
    asks_for = "a cup of memory"

    def __init__(self, world: World) -> None:
        self.window = world.window
        self.death: EngineError | None = None
        self._world = world
        self._flying: dict[asyncio.Future[Completion], str] = {}

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        if self.death is not None:
            raise self.death
        text = prompt.messages[-1].content
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Completion] = loop.create_future()
        self._flying[future] = name_in(text) if "<" in text else ""
        loop.call_later(
            self._world.chance.uniform(0.0, self._world.slowest_s), self._finish, future
        )
        return await future

    def _finish(self, future: asyncio.Future[Completion]) -> None:
        name = self._flying.get(future)
        if name is None or future.done():
            return
        world = self._world
        if name in world.deadly or world.answered in world.kills:
            world.kills.discard(world.answered)
            self.die()
            return
        del self._flying[future]
        world.answered += name != ""
        value = f'{{"intent": "{VALUES[sum(map(ord, name)) % 2]}"}}'
        future.set_result(Completion(value, "small", "stop", (value,), (-0.001,)))

    def die(self) -> None:
        self.death = self._world.cause
        self._world.flights.append(list(self._flying.values()))
        for future in self._flying:
            if not future.done():
                future.set_exception(self.death)

    async def aclose(self) -> None:
        self.death = self.death or EngineError("closed")


def ids(count: int) -> list[str]:
    return [f"R-{n:03}" for n in range(count)]


def ran(patch: pytest.MonkeyPatch, folder: Path, world: World, count: int = 60) -> Ran:
    use_engine(patch, world.engine())
    rows = jobs.records(ids(count), "local")
    job = jobs.write_job(folder, "http://127.0.0.1:9", rows, local=LOCAL)
    return run(job, NO_KEY)


@pytest.fixture
def calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    return ran(monkeypatch, tmp_path / "calm", World()).rows


# --- killed from outside ---


def test_killed_five_times_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    world = World(kills=(0, 3, 17, 20, 45))
    run_ = ran(monkeypatch, tmp_path / "killed", world)
    assert run_.rows == calm
    assert world.thrifts == [0] * 6
    said = [text for text in run_.said if "died" in text]
    assert said[0] == (
        "the engine died (its process was killed (SIGKILL)): it is started again, and what was in "
        "flight (8) is asked again"
    )
    assert len(said) == 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]], seed: int
) -> None:
    chance = random.Random(seed)
    world = World(kills=chance.sample(range(60), 7), window=chance.choice((1, 2, 40)))
    world.chance = chance
    assert ran(monkeypatch, tmp_path / "killed", world).rows == calm


def test_an_engine_that_dies_with_nothing_in_flight() -> None:
    world = World()
    engine = world.engine()
    [asked] = prompts(["<A>"])

    async def use() -> None:
        await engine.generate(asked, Sampling())
        engine._engine.death = KILLED  # type: ignore[misc]
        await engine.generate(asked, Sampling())
        await engine.aclose()

    asyncio.run(use())
    assert len(world.thrifts) == 2


def prompts(texts: Iterable[str]) -> list[Prompt]:
    from runner.types import Message

    return [Prompt((Message("user", text),)) for text in texts]


# --- deadly records ---


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 8, 50])
@pytest.mark.parametrize("deadly", [("R-000",), ("R-030",), ("R-059",), ("R-030", "R-031")])
def test_a_record_that_kills_it_twice_is_set_aside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calm: dict[str, dict[str, Any]],
    window: int,
    deadly: tuple[str, ...],
) -> None:
    world = World(deadly, window=window)
    run_ = ran(monkeypatch, tmp_path / "deadly", world)
    for name in deadly:
        row = run_.rows.pop(name)
        assert (row["status"], row["reason"]) == ("error", "engine_died")
        said = "the local engine died again and again with this record alone (its "
        assert row["error"].startswith(said)
        assert [name] in world.flights
    assert run_.rows == {name: row for name, row in calm.items() if name not in deadly}
    assert len(world.thrifts) <= 1 + 5 * len(deadly)


@pytest.mark.slow
def test_of_many_in_flight_the_deadly_one_is_found_in_few_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(("R-100",), window=512)
    world.slowest_s = 0.3
    run_ = ran(monkeypatch, tmp_path / "deadly", world, 600)
    assert [name for name, row in run_.rows.items() if row["status"] == "error"] == ["R-100"]
    sizes = [len(flight) for flight in world.flights]
    assert sizes[0] > 64 and len(sizes) <= 5 and sizes[-2:] == [1, 1]


def test_deadly_records_and_kills_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    deadly = ("R-010", "R-040")
    run_ = ran(monkeypatch, tmp_path / "both", World(deadly, kills=(5, 25, 44)))
    ends = {name: row["reason"] for name, row in run_.rows.items() if row["status"] == "error"}
    assert ends == dict.fromkeys(deadly, "engine_died")
    assert all(run_.rows[name] == calm[name] for name in calm if name not in deadly)


# --- memory ---


def test_too_little_memory_asks_for_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    cause = EngineDied("vLLM stopped: CUDA out of memory", lacked_memory=True)
    world = World(kills=(10, 30), cause=cause)
    run_ = ran(monkeypatch, tmp_path / "memory", world)
    assert run_.rows == calm
    assert world.thrifts == [0, 1, 2]
    assert sum("it is started again with less memory, and" in text for text in run_.said) == 2
    assert run_.said.count("the engine asks for less memory now: a cup of memory") == 2


def test_so_little_that_it_does_not_load_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    def load(thrift: int) -> None:
        if thrift == 2:
            raise EngineError("vLLM cannot load m: no room for one sequence")

    cause = EngineDied("vLLM stopped: CUDA out of memory", lacked_memory=True)
    world = World(kills=(10, 30, 50), cause=cause)
    world.load = load
    assert ran(monkeypatch, tmp_path / "memory", world).rows == calm
    assert world.thrifts == [0, 1, 2, 1, 1]


def test_what_vllm_is_told_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.engines.vllm.memory.on_cpu", lambda: False)
    given = {"max_num_seqs": 100, "dtype": "float32"}
    assert thrifty(given, 0) == given
    of_gpu = {"max_num_seqs": 25, "gpu_memory_utilization": 0.72, "dtype": "float32"}
    assert thrifty(given, 2) == of_gpu
    assert thrifty({"gpu_memory_utilization": 0.3}, 4)["gpu_memory_utilization"] == 0.1
    assert thrifty({"kv_cache_memory_bytes": 8 << 30}, 1) == {
        "kv_cache_memory_bytes": 4 << 30,
        "max_num_seqs": 128,
    }
    monkeypatch.setattr("runner.engines.vllm.memory.on_cpu", lambda: True)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert thrifty({}, 2) == {"kv_cache_memory_bytes": 1 << 29, "max_num_seqs": 64}


# --- giving up ---


def test_an_engine_that_dies_again_and_again_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    world = World(kills=(20,))

    def load(thrift: int) -> None:
        if len(world.thrifts) > 1:
            raise EngineDied("its process ended with status 1")

    world.load = load
    with pytest.raises(RunFailed) as raised:
        ran(monkeypatch, tmp_path / "dead", world)
    assert str(raised.value) == (
        "the engine died 3 times in a row without an answer between, at last because its process "
        "ended with status 1; what was answered is kept, and the same command goes on from there"
    )
    assert len(world.thrifts) == 3
    [(kept,)] = query(tmp_path / "dead" / "run", "SELECT COUNT(*) FROM outcomes")
    assert kept == 20
    again = World()
    assert ran(monkeypatch, tmp_path / "dead", again).rows == calm
    assert again.answered == 40


def test_where_every_record_is_deadly_none_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunFailed, match=r"died of 3 records in a row.*most likely its own"):
        ran(monkeypatch, tmp_path / "dead", World(ids(60)))
    assert query(tmp_path / "dead" / "run", "SELECT COUNT(*) FROM outcomes") == [(0,)]


@pytest.mark.parametrize(("by_others", "starts"), [(True, 6), (False, 3)])
def test_killed_while_it_loads_it_is_tried_more_often(by_others: bool, starts: int) -> None:
    world = World()

    def load(thrift: int) -> None:
        raise EngineDied("its process was killed (SIGKILL)", by_others=by_others)

    world.load = load
    with pytest.raises(EngineError, match=f"died {starts} times in a row"):
        world.engine()
    assert len(world.thrifts) == starts


def test_too_many_deaths_within_some_minutes_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviving, "MOST_DEATHS", 6)
    with pytest.raises(RunFailed, match="died 6 times within 10 minutes, at last because its"):
        ran(monkeypatch, tmp_path / "dead", World(kills=range(0, 60, 9)))


def test_an_engine_killed_while_it_loads_for_the_first_time() -> None:
    world = World()

    def load(thrift: int) -> None:
        if len(world.thrifts) == 1:
            raise KILLED

    world.load = load
    engine, told = world.engine(), list[Notice]()
    engine.hear(told.append)
    assert list(map(str, told)) == [
        "the engine died (its process was killed (SIGKILL)): it is started again"
    ]
    asyncio.run(engine.aclose())


def test_what_cannot_be_loaded_is_said_at_once() -> None:
    world = World()

    def load(thrift: int) -> None:
        raise EngineError("vLLM cannot load m: no such file")

    world.load = load
    with pytest.raises(EngineError, match="cannot load m"):
        world.engine()
    assert len(world.thrifts) == 1


# --- how it died ---


@pytest.mark.parametrize(
    ("said", "status", "stderr", "kernel", "words", "memory"),
    [
        (None, -9, "", False, "its process was killed (SIGKILL)", False),
        (None, -9, "", True, "its process was killed (SIGKILL), by the kernel for want", True),
        (None, -11, "", True, "its process was killed (SIGSEGV)", False),
        (None, 1, "torch.OutOfMemoryError: CUDA out of memory.", False, "ended with", True),
        ("vLLM stopped: CUDA error: an illegal access", 0, "", False, "vLLM stopped: CUDA", False),
        ("vLLM stopped: not enough memory: you tried to allocate", 0, "", False, "vLLM", True),
    ],
)
def test_how_it_died(
    said: str | None, status: int, stderr: str, kernel: bool, words: str, memory: bool
) -> None:
    found = death(said, status, stderr, kernel_killed=kernel)
    assert words in str(found)
    assert found.lacked_memory is memory
    assert found.by_others is (status == -9 and not kernel)


def test_the_kernel_is_asked() -> None:
    assert kernel_kills() >= 0
    assert lacks_memory("std::bad_alloc")
    assert not lacks_memory("the memory of this is dim")
