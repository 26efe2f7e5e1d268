"""What vLLM is told before it starts: the environment it reads at import, and its arguments.

The engine's code serves CPU and GPU alike; what differs (threads, eager mode, cache size, the CPU
build's fix) stands here alone.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from runner.engines.vllm.insides import SEEDED_DRAWS
from runner.errors import MissingExtra, UsageError
from runner.job import Local

CACHE_GIB = "VLLM_CPU_KVCACHE_SPACE"


def classes() -> tuple[Any, Any]:
    """vLLM's ``EngineArgs`` and ``LLMEngine``; seconds at the first call."""
    # Of their own internals, and nothing that a user could act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError as error:
        raise MissingExtra(f"vLLM ({error})", "cpu", "gpu") from None
    return EngineArgs, LLMEngine


def offline() -> Any:
    """What vLLM takes its defaults from: twice the batch of a server's, as `vllm.LLM` has it."""
    from vllm.usage.usage_lib import UsageContext

    return UsageContext.LLM_CLASS


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    try:
        return bool(importlib.metadata.version("vllm-cpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def prepare(local: Local) -> None:
    """All of the start that needs no model: seconds of imports."""
    environment(local)
    classes()


def environment(local: Local) -> bool:
    """vLLM and OpenMP read these once, at import; what the user has set stays. Returns whether the
    size of the CPU's cache is left to us."""
    own_cache = on_cpu() and CACHE_GIB not in os.environ
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if on_cpu():
        cores = len(os.sched_getaffinity(0))
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
        defaults |= {
            # In-process saves a third of the CPU time, and half of the start-up, on few cores.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            CACHE_GIB: str(max(1, min(8, free // 8))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(local.cpu_threads or max(1, cores - 1)),
        }
        if local.cpu_threads:
            os.environ["OMP_NUM_THREADS"] = str(local.cpu_threads)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return own_cache


def check_arguments(local: Local, known_to: Any) -> None:
    """Raises `UsageError` for an engine argument that vLLM's ``EngineArgs`` does not have."""
    known = {f.name for f in fields(known_to)}
    for name in local.engine_args:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise UsageError(f"local.engine_args: vLLM has no argument `{name}`{hint}")


def arguments(local: Local) -> dict[str, Any]:
    """The keyword arguments of ``EngineArgs``, but for the model: the job's over the defaults."""
    structured: dict[str, Any] = {}
    if local.reasoning_parser:
        structured["reasoning_parser"] = local.reasoning_parser
    defaults: dict[str, Any] = {
        # The default is taken before temperature, penalties and top-k: not what is drawn from.
        "logprobs_mode": "processed_logprobs",
        # A checkpoint's own top-k would silently drop labels.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
        "structured_outputs_config": structured,
    }
    if on_cpu():
        defaults |= {"enforce_eager": True, "worker_extension_cls": SEEDED_DRAWS}
    given: Mapping[str, Any] = local.engine_args
    merged = {**defaults, **given}
    if isinstance(given.get("structured_outputs_config"), dict):
        merged["structured_outputs_config"] = {**structured, **given["structured_outputs_config"]}
    return merged
