"""What handing a request to a Ray replica costs the driver.

    python scripts/bench/cluster.py [--requests 20000] [--replicas 2]

On a Ray cluster of this machine alone, with an engine that answers at once: the driver's CPU
seconds per request, in handfuls (as a run does it), and by a remote call for each, as it would be
without them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from runner.job import Cluster, Local
from runner.types import Completion, Constraint, Message, Prompt, Sampling, Usage

IN_FLIGHT = 512
TEXT = "where is my card, it was ordered two weeks ago " * 3
SCHEMA = {"type": "object", "properties": {"intent": {"enum": [f"intent_{n}" for n in range(150)]}}}
PROMPT = Prompt((Message("system", TEXT), Message("user", TEXT)), Constraint(SCHEMA))


class Ready:
    """An engine that answers at once, as long an answer as the demo's."""

    window = IN_FLIGHT
    asks_for = ""

    def __init__(self, thrift: int = 0) -> None:
        tokens = tuple("abcdefghijkl")
        usage = Usage(80, len(tokens))
        self._said = Completion("".join(tokens), "m", "stop", tokens, (-0.1,) * 12, usage)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return self._said

    async def aclose(self) -> None:
        return None


async def asked(count: int, ask: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Seconds and CPU seconds of this process for so many requests, a window of them at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        try:
            await ask()
        finally:
            slots.release()

    began, cpu = time.monotonic(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            await slots.acquire()
            tasks.create_task(one())
    return time.monotonic() - began, time.process_time() - cpu


def told(what: str, count: int, took: tuple[float, float]) -> None:
    wall, cpu = took
    print(f"{what:<28}{cpu / count * 1e6:8.0f} µs CPU of the driver {count / wall:10,.0f} a second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--replicas", type=int, default=2)
    options = parser.parse_args()
    # The actors load `Ready` from this file.
    here = Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parents[1])])
    sys.path.insert(0, str(here))
    import ray

    from runner.cluster import on_cluster

    made = __import__("cluster").Ready
    ray.init("local", num_cpus=options.replicas, include_dashboard=False, log_to_driver=False)
    pool = on_cluster(Cluster(replicas=options.replicas), Local(model="m"), made)
    sampling = Sampling()

    async def handfuls() -> None:
        ask = partial(pool.generate, PROMPT, sampling)
        await asked(1000, ask)
        told("in handfuls", options.requests, await asked(options.requests, ask))
        await pool.aclose()

    asyncio.run(handfuls())
    actor: Any = ray.remote(num_cpus=0)(made).remote()

    async def single() -> None:
        await asked(200, lambda: actor.generate.remote(PROMPT, sampling))
        count = options.requests // 4
        took = await asked(count, lambda: actor.generate.remote(PROMPT, sampling))
        told("a remote call for each", count, took)

    asyncio.run(single())
    ray.shutdown()


if __name__ == "__main__":
    main()
