"""Joining a Ray cluster, and how many replicas there is room for on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.errors import UsageError
from runner.job import Cluster, Local
from runner.types import Event, Notice, notice

# What one engine spreads over, in vLLM's arguments.
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")

Room = Mapping[str, float]
"""One node's ``CPU`` and ``GPU``, as Ray counts them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """So many replicas, and what each of them takes."""

    replicas: int
    gpus: float
    cpus: float
    nodes: int

    def told(self) -> Notice:
        each = f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus:g} CPU"
        said = (
            f"cluster: {_count(self.replicas, 'replica')} of {each} each, on "
            f"{_count(self.nodes, 'node')}"
        )
        return notice(Event.CLUSTER, said, **asdict(self))


def plan(nodes: Sequence[Room], cluster: Cluster, local: Local) -> Plan:
    """How many replicas, and of what size.

    Raises:
        UsageError: the job does not say how many, and not even one has room.
    """
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    gpus = cluster.gpus_per_replica
    if gpus is None:
        gpus = math.prod(int(local.engine_args.get(n, 1)) for n in _PARALLEL) if has_gpus else 0
    cpus = cluster.cpus_per_replica or local.cpu_threads or 1
    # A CPU's engine spreads over its node by itself.
    most = None if gpus else 1
    replicas = cluster.replicas or sum(_fit(node, gpus, cpus, most) for node in nodes)
    if not replicas:
        largest = max((node.get("GPU", 0) for node in nodes), default=0)
        raise UsageError(
            f"cluster: no node has room for a replica of {gpus:g} GPU and {cpus:g} CPU (the "
            f"largest has {largest:g} GPU): lower `local.engine_args` or `gpus_per_replica`, or "
            "give `replicas` if such nodes are still to come"
        )
    return Plan(replicas, gpus, cpus, len(nodes))


def _fit(node: Room, gpus: float, cpus: float, most: int | None) -> int:
    fits = int(node.get("CPU", 0) / cpus)
    if gpus:
        fits = min(fits, int(node.get("GPU", 0) / gpus))
    return fits if most is None else min(fits, most)


def room() -> list[Room]:
    """What each live node has, whoever uses it at present."""
    import ray

    nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def connected(cluster: Cluster) -> bool:
    """Connects; whether it is for us to disconnect again.

    Raises:
        UsageError: there is no cluster at that address.
    """
    import ray

    if ray.is_initialized():
        return False
    try:
        ray.init(
            cluster.address,
            runtime_env=cluster.runtime_env or None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"cluster: no Ray cluster can be joined at {cluster.address or 'this machine'} "
            f"({line}); start one with `ray start --head`, or fix `cluster.address`"
        ) from None
    return True


def disconnect(owned: bool) -> None:
    import ray

    if owned:
        ray.shutdown()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
