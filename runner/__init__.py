"""What `surelocal` gives to Python, for it to hand on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import Result as Result
    from runner.api import run as run
    from runner.job import Job as Job
    from runner.job.file import load_job as load_job
    from runner.job.file import make_job as make_job
    from runner.notices import Event as Event
    from runner.notices import Notice as Notice

_HOMES = {
    "Event": "runner.notices",
    "Job": "runner.job",
    "Notice": "runner.notices",
    "Result": "runner.api",
    "load_job": "runner.job.file",
    "make_job": "runner.job.file",
    "run": "runner.api",
}
__all__ = ["Event", "Job", "Notice", "Result", "load_job", "make_job", "run"]


def __getattr__(name: str) -> Any:
    # When it is asked for: the engine's own process and `--help` do without all of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
