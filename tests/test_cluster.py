"""Many replicas are one engine: the same rows, whatever is killed."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.cluster import pool
from runner.cluster.nodes import plan
from runner.cluster.pool import NoPlace, Pool, Starting
from runner.engines.process.reviving import Mortal
from runner.errors import EngineDied, EngineError, JobError, RecordError, UsageError
from runner.job import Cluster, Job, Local
from runner.job.file import load_job
from runner.types import Completion, Event, Message, Notice, Prompt, Sampling, notice
from tests import jobs
from tests.fakes import JOB, surelocal
from tests.fakes import write_job as write_small
from tests.jobs import NO_KEY, ROOT, Ran, use_engine, wait_until
from tests.scripted import LOCAL
from tests.test_engine_death import KILLED, World, ids

KILLED_BY_OTHERS = EngineDied("its actor is gone: killed", by_others=True)


def pooled(world: World, replicas: int = 3) -> Pool:
    return Pool(lambda starting, thrift: world.start(thrift), replicas, pause_s=0)


def ran(patch: pytest.MonkeyPatch, folder: Path, engine: Pool, count: int = 90) -> Ran:
    use_engine(patch, engine)
    rows = jobs.records(ids(count), "local")
    return jobs.run(jobs.write_job(folder, "http://127.0.0.1:9", rows, local=LOCAL), NO_KEY)


@pytest.fixture
def calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    with monkeypatch.context() as patch:
        use_engine(patch, World().engine())
        rows = jobs.records(ids(90), "local")
        job = jobs.write_job(tmp_path / "calm", "http://127.0.0.1:9", rows, local=LOCAL)
        return jobs.run(job, NO_KEY).rows


# --- the pool, with scripted replicas ---


@pytest.mark.parametrize("seed", range(8))
def test_replicas_killed_at_random_give_the_rows_of_one_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]], seed: int
) -> None:
    chance = random.Random(seed)
    # A record with which an engine dies of itself is deadly the second time that it is alone,
    # and by chance it may be: so there is one such death, or there are two from outside.
    kills = [chance.randrange(90)] if seed % 2 else [10 + chance.randrange(10), 45]
    cause = KILLED if seed % 2 else KILLED_BY_OTHERS
    world = World(kills=kills, cause=cause, window=chance.choice((4, 20)))
    world.chance = chance
    engine = pooled(world, chance.choice((2, 3, 5)))
    assert ran(monkeypatch, tmp_path / "killed", engine).rows == calm


def test_what_a_killed_replica_had_goes_to_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calm: dict[str, dict[str, Any]]
) -> None:
    world = World(kills=(40,), cause=KILLED_BY_OTHERS)

    def begin(starting: Starting, thrift: int) -> Mortal:
        if len(world.thrifts) == 2:
            wait_until(starting.is_closing)  # it loads for longer than all the rest takes
        return world.start(thrift)

    engine = Pool(begin, 2, pause_s=0)
    wait_until(lambda: len(world.thrifts) == 2)
    run = ran(monkeypatch, tmp_path / "killed", engine)
    assert run.rows == calm
    assert sum("the engine died" in text for text in run.said) == 1


class Stuck:
    """Whichever is asked first never answers, and every other at once."""

    window, asks_for, death = 4, "", None
    asked = 0

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        Stuck.asked += 1
        if Stuck.asked == 1:
            await asyncio.sleep(3600)
        return Completion("well", "small", "stop")

    async def aclose(self) -> None:
        pass


def test_a_replica_that_dies_twice_at_once_loses_no_record() -> None:
    crowd = Pool(lambda starting, thrift: Stuck(), 2, pause_s=0)
    wait_until(lambda: len(crowd._ready()) == 2)

    async def moved_twice() -> str:
        prompt = Prompt((Message("user", "x"),))
        task = asyncio.create_task(crowd.generate(prompt, Sampling()))
        await asyncio.sleep(0)
        [lane] = [lane for lane in crowd._lanes if lane.flights]
        crowd._move(lane)
        crowd._move(lane)
        return (await task).text

    assert asyncio.run(moved_twice()) == "well"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("deadly", [(), ("R-011", "R-060")])
def test_replicas_killed_from_outside_at_random(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calm: dict[str, dict[str, Any]],
    seed: int,
    deadly: tuple[str, ...],
) -> None:
    chance = random.Random(seed)
    kills = [tens + chance.randrange(5) for tens in range(0, 90, 30)]
    world = World(deadly, kills, KILLED_BY_OTHERS, window=chance.choice((4, 20)))
    world.chance = chance
    rows = ran(monkeypatch, tmp_path / "killed", pooled(world, 3)).rows
    for name in deadly:
        assert rows.pop(name)["reason"] == "engine_died"
    assert rows == {name: row for name, row in calm.items() if name not in deadly}


@pytest.mark.parametrize("deadly", [("R-000",), ("R-030", "R-031", "R-089")])
def test_a_deadly_record_is_set_aside_and_kills_one_replica_only(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calm: dict[str, dict[str, Any]],
    deadly: tuple[str, ...],
) -> None:
    world = World(deadly)
    rows = ran(monkeypatch, tmp_path / "deadly", pooled(world)).rows
    for name in deadly:
        assert rows.pop(name)["reason"] == "engine_died"
    assert rows == {name: row for name, row in calm.items() if name not in deadly}
    assert len(world.thrifts) <= 3 + 5 * len(deadly)


def test_what_is_in_flight_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, most = World(window=4), [0]
    started: list[Any] = []

    def watched(starting: Starting, thrift: int) -> Mortal:
        one = world.start(thrift)
        started.append(one)
        finish = one._finish

        def see(future: Any) -> None:
            most[0] = max(most[0], *(sum(not f.done() for f in each._flying) for each in started))
            finish(future)

        monkeypatch.setattr(one, "_finish", see)
        return one

    engine = Pool(watched, 3, pause_s=0)
    assert engine.window == 12
    ran(monkeypatch, tmp_path, engine)
    assert most[0] == 4 and len(started) == 3


def asked(engine: Pool, texts: list[str]) -> list[Any]:
    """Asks for all of them at once, then closes."""

    async def use() -> list[Any]:
        try:
            requests = (engine.generate(prompt(text), Sampling()) for text in texts)
            return await asyncio.gather(*requests, return_exceptions=True)
        finally:
            await engine.aclose()

    return asyncio.run(use())


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def marks(count: int) -> list[str]:
    return [f"<{name}>" for name in ids(count)]


def test_where_there_is_no_room_for_a_successor_the_others_take_over() -> None:
    world, chances, back = World(kills=(2,)), [2], threading.Event()

    def begin(starting: Starting, thrift: int) -> Mortal:
        if len(world.thrifts) >= 2 and chances[0]:
            chances[0] -= 1
            assert starting.patience_s == (pool.PATIENCE_S if chances[0] else 300)
            raise NoPlace("no node had room for it within 60 s")
        if len(world.thrifts) >= 2:
            back.set()
        return world.start(thrift)

    told: list[Notice] = []
    engine = Pool(begin, 2, first=[notice(Event.CLUSTER, "cluster: 2 replicas")], pause_s=0)
    wait_until(lambda: len(world.thrifts) == 2)
    engine.hear(told.append)
    found = asked(engine, marks(40))
    assert [one for one in found if isinstance(one, Exception)] == []
    assert back.wait(5)
    said = list(map(str, told))
    assert [one.event for one in told] == [Event.CLUSTER, Event.ENGINE_DIED, Event.REPLICA_WAITS]
    assert told[1].fields["replica"] == told[2].fields["replica"]
    assert said[0] == "cluster: 2 replicas"
    assert "the engine died (its process was killed (SIGKILL)): it is started again" in said[1]
    assert said[2].split(": ", 1)[1] == (
        "no node had room for it within 60 s; the others go on, and it joins them when there is "
        "room"
    )


def test_a_replica_that_cannot_be_started_is_given_up_and_the_others_go_on() -> None:
    world, first = World(), threading.Lock()

    def begin(starting: Starting, thrift: int) -> Mortal:
        if first.acquire(blocking=False):
            raise EngineError("vLLM cannot load m: no such device")
        return world.start(thrift)

    told: list[Notice] = []
    engine = Pool(begin, 2, pause_s=0)
    engine.hear(told.append)
    assert not any(isinstance(one, Exception) for one in asked(engine, marks(30)))
    [one] = told
    assert (one.event, one.fields["problem"]) == (
        Event.REPLICA_GIVEN_UP, "vLLM cannot load m: no such device",
    )  # fmt: skip
    assert one.text.endswith(
        "it is given up, the others go on (vLLM cannot load m: no such device)"
    )


def test_where_none_can_be_started_it_says_why() -> None:
    def begin(starting: Starting, thrift: int) -> Mortal:
        raise UsageError("vLLM has no argument `x`")

    with pytest.raises(UsageError, match="no argument"):
        Pool(begin, 3, pause_s=0)


def test_where_all_are_given_up_the_run_ends() -> None:
    world = World()
    engine = pooled(world, 2)
    wait_until(lambda: len(world.thrifts) == 2)

    def broken(thrift: int) -> None:
        raise EngineDied("its process ended with status 1")

    world.kills, world.load = {0}, broken
    endless = asked(engine, marks(1))
    assert not isinstance(endless[0], Exception)  # the other replica's answer


# --- how many replicas ---

GPUS = {"CPU": 32.0, "GPU": 8.0}
SMALL = {"CPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "cluster", "arguments", "expected"),
    [
        ([GPUS, GPUS], {}, {}, (16, 1, 1)),
        ([GPUS, GPUS, SMALL], {}, {"tensor_parallel_size": 4}, (4, 4, 1)),
        ([GPUS], {}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, (2, 4, 1)),
        ([GPUS], {"gpus_per_replica": 0.5}, {}, (16, 0.5, 1)),
        ([GPUS], {"cpus_per_replica": 16}, {}, (2, 1, 16)),
        ([GPUS], {"replicas": 30}, {}, (30, 1, 1)),
        ([SMALL, SMALL], {}, {}, (2, 0, 1)),
        ([SMALL], {"replicas": 2, "cpus_per_replica": 2}, {}, (2, 0, 2)),
    ],
)
def test_how_many_replicas(
    nodes: list[dict[str, float]],
    cluster: dict[str, Any],
    arguments: dict[str, Any],
    expected: tuple[int, float, float],
) -> None:
    local = Local(model="m", engine_args=arguments)
    found = plan(nodes, Cluster(**cluster), local)
    assert (found.replicas, found.gpus, found.cpus) == expected


def test_a_model_that_fits_no_node_is_said_at_once() -> None:
    local = Local(model="m", engine_args={"tensor_parallel_size": 16})
    with pytest.raises(UsageError, match=r"no node has room for a replica of 16 GPU.*has 8 GPU"):
        plan([GPUS, GPUS], Cluster(), local)


# --- the job, and the command line ---


def test_the_cluster_is_no_part_of_what_answers_depend_on() -> None:
    one, many = Job.model_validate(JOB), Job.model_validate({**JOB, "cluster": {"replicas": 2}})
    assert one.identity() == many.identity()


def test_a_mistake_in_cluster_is_named(tmp_path: Path) -> None:
    job = write_small(tmp_path, "id,message\n1,a\n", cluster={"replica": 2})
    with pytest.raises(JobError, match="cluster"):
        load_job(job)


def test_a_server_is_not_spread_over_a_cluster(tmp_path: Path) -> None:
    local = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    job = write_small(tmp_path, "id,message\n1,a\n", local=local, routes=[])
    result = surelocal("run", job, "--run-dir", tmp_path / "run", "--cluster")
    assert result.exit_code == 2
    assert "cluster: local.base_url is one server" in result.stderr


# --- on Ray ---


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray")
    paths = {"PYTHONPATH": str(ROOT)}
    module.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": paths},
    )  # fmt: skip
    yield module
    module.shutdown()


def on_ray(fails: str = "") -> Pool:
    from runner.cluster import on_cluster
    from tests.cluster_engines import Echo

    return on_cluster(Cluster(replicas=2), Local(model="m"), partial(Echo, fails))


@pytest.mark.slow
def test_actors_answer_die_and_come_again(ray: Any) -> None:
    engine, told = on_ray(), list[Notice]()
    wait_until(lambda: len(engine._ready()) == 2)
    engine.hear(told.append)
    texts = [str(n) for n in range(40)]
    texts[7], texts[20] = "refuse", "die"
    found = asked(engine, texts)
    refused, deadly = found[7], found[20]
    assert isinstance(refused, RecordError) and str(refused) == "no room"
    assert isinstance(deadly, RecordError) and "ended with status 7" in str(deadly)
    assert [one.text for n, one in enumerate(found) if n not in (7, 20)] == [
        text for n, text in enumerate(texts) if n not in (7, 20)
    ]
    assert {one.logprobs for one in found if not isinstance(one, Exception)} == {(-0.5,)}
    assert str(told[0]) == "cluster: 2 replicas of 1 CPU each, on 1 node"
    assert (told[0].fields["replicas"], told[0].fields["nodes"]) == (2, 1)
    assert all("ended with status 7" in one.text for one in told[1:])


@pytest.mark.slow
def test_an_actor_that_is_killed_is_named_so(ray: Any) -> None:
    engine, told = on_ray(), list[Notice]()
    engine.hear(told.append)
    found = asked(engine, ["actor", "a", "b"])
    assert isinstance(found[0], RecordError)
    assert [one.text for one in found[1:]] == ["a", "b"]
    assert any("the engine died (its actor is gone: " in text for text in map(str, told)), told


@pytest.mark.slow
def test_what_keeps_a_replica_from_loading_is_said_as_on_one_machine(ray: Any) -> None:
    with pytest.raises(UsageError, match="fix it"):
        on_ray("fix it")
