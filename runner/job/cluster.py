"""The job's ``cluster``: runs the local model on several machines."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from runner.job.confidence import Part


class Cluster(Part):
    """Replicas of the local model on a Ray cluster."""

    address: str | None = None
    """The address for `ray.init` (`auto`, `ray://HOST:10001`, `local`). Default: the cluster that
    this machine is part of, otherwise a new one on this machine only."""
    replicas: int | None = Field(default=None, ge=1)
    """The number of engines. Default: as many as fit when the run begins."""
    gpus_per_replica: float | None = Field(default=None, ge=0)
    """GPUs per engine. Default: what the engine's parallelism needs; 0 on a cluster without
    GPUs."""
    cpus_per_replica: float | None = Field(default=None, gt=0)
    """Cores per engine. Default: `local.cpu_threads`, or 1."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Passed to Ray unchanged: what the nodes need, such as environment variables."""
