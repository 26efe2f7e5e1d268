"""The job's ``cluster``: where its local half runs on more than one machine."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from runner.job_confidence import Part


class Cluster(Part):
    """Replicas of the local model on a Ray cluster.

    ``address``: as `ray.init` takes it (``auto``, ``ray://HOST:10001``, ``local``); left out, the
    cluster that this machine is part of, else one of this machine alone. ``replicas``: left out, as
    many as there is room for. ``gpus_per_replica``: left out, what the engine's parallelism needs.
    ``runtime_env`` goes to Ray unchanged.
    """

    address: str | None = None
    replicas: int | None = Field(default=None, ge=1)
    gpus_per_replica: float | None = Field(default=None, ge=0)
    cpus_per_replica: float | None = Field(default=None, gt=0)
    runtime_env: dict[str, Any] = Field(default_factory=dict)
