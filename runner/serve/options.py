"""What one server is asked for, checked before anything is loaded."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runner import keys
from runner.errors import UsageError
from runner.job import Job

OnUnsure = Literal["error", "answer"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client is given. ``head_s`` and ``head_bytes``: for a request's headers to come, and
    how long they may be; ``body_s``: for its body; ``taken_s``: to take some more of its answer."""

    head_s: float = 20.0
    head_bytes: int = 64 << 10
    body_s: float = 60.0
    taken_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """``max_concurrent``: requests at work at once, ``max_body``: a request's bytes, ``timeout_s``:
    how long one may take. ``on_unsure``: what a request gets that says nothing of it, where its
    answer may not stand."""

    run_dir: Path
    host: str = "127.0.0.1"
    port: int = 8088
    api_key_env: str | None = None
    max_concurrent: int = 512
    max_body: int = 4 << 20
    timeout_s: float = 300.0
    on_unsure: OnUnsure = "error"
    limits: Limits = field(default_factory=Limits)

    def loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def key(self, job: Job) -> str | None:
        """The key that clients must send; None where they need none.

        Raises:
            UsageError: there must be one and is not, or it is the closed model's.
        """
        if self.api_key_env is None:
            if not self.loopback():
                raise UsageError(
                    f"--host {self.host} lets other machines in, and they could spend the job's "
                    "budget: name the environment variable of a key for them with --api-key-env"
                )
            return None
        if job.escalation is not None and self.api_key_env == job.escalation.api_key_env:
            raise UsageError(
                f"--api-key-env {self.api_key_env} is the closed model's key: clients must not "
                "know that one; put another key into another variable"
            )
        keys.withhold([self.api_key_env])
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UsageError(
                f"--api-key-env: there is no key in {self.api_key_env}; put one there, "
                "`openssl rand -hex 24` makes one"
            )
        return key
