"""What vLLM is told of memory: no more cache than can be filled, and where memory was short, a
smaller one, and fewer answers at once.

None of it changes an answer; less costs speed alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.engines.vllm.setup import CACHE_GIB, on_cpu

_SEQUENCES = 256  # vLLM's own default on most machines
_UTILIZATION = 0.92  # of the GPU's memory; vLLM's own default
_STEP = 0.1
_GIB = 1 << 30
_BLOCK = 128  # tokens; a sequence's last block is its own however little is in it
_FLOAT = 4  # bytes


def fitting(arguments: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The engine's arguments, with a CPU's cache of no more than all answers at once can fill:
    each GiB of it is half a second of the start. Where that cannot be told, nothing changes."""
    most = int(os.environ[CACHE_GIB]) * _GIB
    needed = _filled(arguments, model)
    if needed is None or needed >= most or arguments.get("kv_cache_memory_bytes"):
        return dict(arguments)
    del os.environ[CACHE_GIB]  # it would go before the argument
    return {**arguments, "kv_cache_memory_bytes": needed}


def _filled(arguments: Mapping[str, Any], model: str) -> int | None:
    """Bytes of the keys and values of as many whole contexts as there are answers at once."""
    try:
        config = json.loads((Path(model) / "config.json").read_text("utf-8"))
        if set(config.get("layer_types") or ["full_attention"]) != {"full_attention"}:
            return None  # its layers keep something else
        heads = config["num_key_value_heads"]
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        context = arguments.get("max_model_len") or config["max_position_embeddings"]
        token = 2 * config["num_hidden_layers"] * heads * width * _FLOAT
        sequences = arguments.get("max_num_seqs") or _SEQUENCES
        return int(token * (context + _BLOCK) * sequences)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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
