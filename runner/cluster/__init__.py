"""The local half on every node of a Ray cluster, behind the protocol of a single engine.

A replica is a Ray actor with the engine that one machine has, in a process of its own
(`runner.cluster.replica`); `runner.cluster.pool` deals the requests out, and is all that the
run sees. So there is one pipeline, one ledger and one budget, looks and audits work as they do on
one machine, and the rows are the same bytes.

Why Ray's actors, and not a Ray Data pipeline over them (`map_batches` with a pool of actors):

- A request comes of another's answer (a second look), so the work is no data set that is there
  before it is run. Ray Data replays a block by running its lineage again, and a source that takes
  from a queue cannot be replayed.
- The block is what is lost, retried or given up there: a record that kills engines takes its whole
  block with it, or is retried for ever. Here it is found and set aside alone
  (`runner.engines.process.suspects`).
- A block's answers come when its last one does, and batches run dry at its end. Here each answer
  comes by itself and the engine's batch stays full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from runner.cluster.nodes import connected, disconnect, plan, room
from runner.cluster.pool import Pool
from runner.errors import MissingExtra
from runner.job import Cluster, Local
from runner.types import Engine

Make = Callable[[int], Engine]
"""Loads an engine over there; its argument is how often memory was short so far."""


def on_cluster(cluster: Cluster, local: Local, make: Make) -> Pool:
    """Connects to the cluster and starts the replicas; returns once the first one is there. Not
    for a thread in which an event loop runs.

    Raises:
        UsageError: there is no such cluster, or no room on it.
        EngineError: no replica can load the model.
    """
    try:
        from runner.cluster.replica import Replicas
    except ImportError as error:
        raise MissingExtra(f"Ray ({error})", "cluster") from None
    owned = connected(cluster)
    try:
        planned = plan(room(), cluster, local)
        replicas = Replicas(planned, make)
        return Pool(
            replicas.start,
            planned.replicas,
            first=[planned.told()],
            after=partial(disconnect, owned),
        )
    except BaseException:
        disconnect(owned)
        raise
