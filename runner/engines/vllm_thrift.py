"""What vLLM is told where memory was short: a smaller cache, and fewer answers at once.

Neither changes an answer; both cost speed alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from runner.engines.vllm_setup import CACHE_GIB, on_cpu

_SEQUENCES = 256  # vLLM's own default on most machines
_UTILIZATION = 0.92  # of the GPU's memory; vLLM's own default
_STEP = 0.1
_GIB = 1 << 30


def thrifty(arguments: Mapping[str, Any], thrift: int) -> dict[str, Any]:
    """The engine's arguments, with half the cache and half the answers at once for each time that
    memory was short; on a GPU, a tenth less of its memory."""
    if not thrift:
        return dict(arguments)
    less = dict(arguments)
    less["max_num_seqs"] = max(1, (arguments.get("max_num_seqs") or _SEQUENCES) >> thrift)
    cache = arguments.get("kv_cache_memory_bytes")
    if on_cpu():
        # The variable goes before the argument, and knows whole GiB only.
        cache = int(os.environ.pop(CACHE_GIB)) * _GIB if CACHE_GIB in os.environ else cache
    if cache:
        less["kv_cache_memory_bytes"] = cache >> thrift
    else:
        given = arguments.get("gpu_memory_utilization") or _UTILIZATION
        less["gpu_memory_utilization"] = round(max(_STEP, given - _STEP * thrift), 2)
    return less


def asks_for(given: Any) -> str:
    """The memory that these ``EngineArgs`` ask for, in words."""
    if given.kv_cache_memory_bytes:
        cache = f"a cache of {given.kv_cache_memory_bytes / _GIB:.2f} GiB"
    else:
        cache = f"{given.gpu_memory_utilization:.0%} of the device's memory"
    return f"{cache}, {given.max_num_seqs or _SEQUENCES} answers at once"
