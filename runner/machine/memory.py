"""Estimates the memory that a model needs: its weights, and the KV cache of concurrent answers.

The cache is computed in vLLM's layout (whole blocks for each sequence; a layer with a window keeps
only the window; MLA keeps one row per token on every GPU). `tests/test_presets.py` compares it with
what vLLM reports on CPU; it has not been compared on a GPU. Activations and libraries are covered
by `OVERHEAD` on each device, which is an allowance, not computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from runner.job.presets import Layers, Preset

GIB = 1 << 30
# vLLM's default tokens per block: on a GPU, and in its CPU build.
BLOCK = 16
CPU_BLOCK = 128
OVERHEAD = 2 * GIB
# The share of a GPU's memory that vLLM uses by default (``gpu_memory_utilization``).
UTILIZATION = 0.92
_DTYPE_BYTES = {"float32": 4, "float": 4, "half": 2, "float16": 2, "bfloat16": 2, "auto": 2}
_CACHE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_ds_mla": 1, "float32": 4}
_SPLITS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes for the estimate. ``layers`` is None if unknown: then only weights count."""

    name: str
    weight_bytes: int
    layers: tuple[Layers, ...] | None
    # Bytes of one number in the cache.
    cache_bytes: int = 2
    # The longest sequence of the model, in tokens.
    context: int | None = None
    block: int = BLOCK

    def sequence_bytes(self, tokens: int, split: int = 1) -> int:
        """Bytes of cache for one sequence on each of ``split`` GPUs."""
        return sum(
            _layer_bytes(one, tokens, self.block, split) * self.cache_bytes // 2
            if one.kind != "state"
            else one.count * ceil(one.state_bytes / split)
            for one in self.layers or ()
        )

    def token_bytes(self) -> int:
        """Bytes of cache for one more token, once every window is full."""
        far = 1 << 24
        return (self.sequence_bytes(far) - self.sequence_bytes(far // 2)) // (far // 2)

    def need(self, tokens: int, sequences: int, split: int = 1) -> int:
        """Bytes on each of ``split`` devices, overhead included."""
        cache = sequences * self.sequence_bytes(tokens, split)
        return ceil(self.weight_bytes / split) + cache + OVERHEAD


def _layer_bytes(layers: Layers, tokens: int, block: int, split: int) -> int:
    """Bytes of all layers of one kind, at 16 bits. Heads are split over GPUs; MLA's rows are
    not."""
    if layers.kind == "latent":
        return layers.count * _whole(ceil(tokens / layers.tokens_per_row), block) * layers.row_bytes
    heads = max(1, layers.kv_heads // split)
    kept = min(tokens, layers.window + block) if layers.kind == "window" else tokens
    return layers.count * _whole(kept, block) * 4 * heads * layers.head_dim


def _whole(tokens: int, block: int) -> int:
    return ceil(tokens / block) * block


def of_preset(preset: Preset, variant: str | None = None) -> Model:
    layers = tuple(preset.layers) if preset.layers else None
    own = preset.variants[variant or next(iter(preset.variants))].engine_args
    given = {**preset.engine_args, **own}
    return Model(
        preset.name,
        preset.weight_bytes(variant),
        layers,
        # The rows of DeepSeek V4 are given at their stored precision, 8 bits.
        2 if preset.rows_as_kept else _CACHE_BYTES.get(str(given.get("kv_cache_dtype")), 2),
        preset.context,
        given.get("block_size") or BLOCK,
    )


def of_folder(folder: Path, engine_args: Mapping[str, Any]) -> Model | None:
    """A checkpoint on this machine: the size of its files, and the layers in its ``config.json``.

    None if there is no readable config.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
        stored = sum(path.stat().st_size for path in files)
    except (OSError, ValueError):
        return None
    own = str(config.get("dtype") or config.get("torch_dtype") or "auto")
    asked = str(engine_args.get("dtype") or own)
    ratio = _DTYPE_BYTES.get(asked, 2) / _DTYPE_BYTES.get(own, 2)
    cache = _CACHE_BYTES.get(str(engine_args.get("kv_cache_dtype"))) or _DTYPE_BYTES.get(asked, 2)
    if "quantization_config" in config:
        ratio = 1.0
    longest = (config.get("text_config") or config).get("max_position_embeddings")
    block = engine_args.get("block_size") or BLOCK
    return Model(folder.name, round(stored * ratio), layers_of(config), cache, longest, block)


def layers_of(config: Mapping[str, Any]) -> tuple[Layers, ...] | None:
    """The layers of a checkpoint's ``config.json``; None for an unknown kind."""
    text = config.get("text_config") or config
    try:
        if text.get("kv_lora_rank"):
            row = 2 * (int(text["kv_lora_rank"]) + int(text["qk_rope_head_dim"]))
            if text.get("index_head_dim"):
                row += int(text["index_head_dim"]) + 4
            count = int(text["num_hidden_layers"])
            return (Layers(count=count, kind="latent", row_bytes=row),)
        kinds = text.get("layer_types") or ["full_attention"] * int(text["num_hidden_layers"])
        return tuple(_group(text, kind, kinds.count(kind)) for kind in dict.fromkeys(kinds))
    except (KeyError, TypeError, ValueError):
        return None


def _group(text: Mapping[str, Any], kind: str, count: int) -> Layers:
    heads = int(text.get("num_key_value_heads") or text["num_attention_heads"])
    size = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])
    if kind == "full_attention":
        return Layers(
            count=count,
            kv_heads=int(text.get("num_global_key_value_heads") or heads),
            head_dim=int(text.get("global_head_dim") or size),
        )
    if kind == "linear_attention":
        return Layers(count=count, kind="state", state_bytes=_state_bytes(text))
    window = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    return Layers(
        count=count, kind="window", kv_heads=heads, head_dim=size, window=int(text[window[kind]])
    )


def _state_bytes(text: Mapping[str, Any]) -> int:
    """Bytes of Gated DeltaNet's recurrent state (in its own type) and last convolution inputs."""
    keys, values = int(text["linear_num_key_heads"]), int(text["linear_num_value_heads"])
    key, value = int(text["linear_key_head_dim"]), int(text["linear_value_head_dim"])
    recurrent = values * value * key * _DTYPE_BYTES.get(str(text.get("mamba_ssm_dtype")), 4)
    inputs = (2 * keys * key + values * value) * (int(text["linear_conv_kernel_dim"]) - 1)
    return recurrent + 2 * inputs


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether the model fits with all requested concurrent answers; ``sequences`` is how many fit
    (0: none). ``split``: the number of GPUs, or 0 for main memory."""

    fits: bool
    sequences: int
    split: int

    @property
    def where(self) -> str:
        place = {0: "CPU", 1: "1 GPU"}.get(self.split, f"{self.split} GPUs")
        if self.fits:
            return place
        return f"{place}, {self.sequences} at once" if self.sequences else "no"


def fit(model: Model, tokens: int, sequences: int, gpus: Iterable[int], memory: int) -> Fit:
    """Fits the model on the fewest GPUs that hold all answers at once, otherwise on those that hold
    the most. ``gpus``: bytes of each GPU; ``memory``: free bytes of main memory."""
    sizes = sorted(gpus)
    if not sizes:
        return _fit(model, tokens, sequences, memory, 0)
    found = [
        # The split is even, so the smallest of the ``split`` largest GPUs decides.
        _fit(model, tokens, sequences, UTILIZATION * sizes[-split], split)
        for split in _SPLITS
        if split <= len(sizes)
    ]
    whole = [one for one in found if one.fits]
    return whole[0] if whole else max(found, key=lambda one: one.sequences)


def _fit(model: Model, tokens: int, sequences: int, room: float, split: int) -> Fit:
    left = room - model.need(tokens, 0, max(1, split))
    each = model.sequence_bytes(tokens, max(1, split))
    held = 0 if left < each else min(sequences, int(left // each)) if each else sequences
    return Fit(held == sequences, held, split)


def gib(count: float) -> str:
    """Formats a number of bytes."""
    size = count / GIB
    if size < 0.1:
        return f"{count / (1 << 20):,.1f} MiB"
    return f"{size:,.1f} GiB" if size < 100 else f"{size:,.0f} GiB"
