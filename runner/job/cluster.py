"""The job's ``cluster``: where its local half runs on more than one machine."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from runner.job.confidence import Part


class Cluster(Part):
    """Replicas of the local model on a Ray cluster."""

    address: str | None = None
    """As `ray.init` takes it (`auto`, `ray://HOST:10001`, `local`); left out, the cluster that this
    machine is part of, else one of this machine alone."""
    replicas: int | None = Field(default=None, ge=1)
    """How many engines; left out, as many as there is room for when the run begins."""
    gpus_per_replica: float | None = Field(default=None, ge=0)
    """Left out, what the engine's parallelism needs; 0 on a cluster without GPUs."""
    cpus_per_replica: float | None = Field(default=None, gt=0)
    """Cores; left out, `local.cpu_threads`, or 1."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Goes to Ray unchanged: what the nodes need, such as environment variables."""
