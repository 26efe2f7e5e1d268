"""Presets: the settings of open-weight models by short names, with sources.

They are in ``configs/models``, one file per family. `resolved` writes a preset's values into a
job's ``local`` before validation, so that all later code (the engine, the run directory's identity)
sees plain values only: editing a preset affects new runs, not the meaning of old ones.
"""

from __future__ import annotations

import difflib
import json
import sysconfig
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from runner.errors import UsageError
from runner.job.confidence import Part

MODES = ("direct", "thinking")
VERIFIED = "verified.json"
_MERGED = ("sampling", "chat_template_args", "engine_args")
# The sampling settings of the transformers engine.
_PLAIN_SAMPLING = {
    "temperature", "max_tokens", "seed", "top_p", "top_k", "min_p", "repetition_penalty",
}  # fmt: skip


class Layers(Part):
    """Layers with the same kind of KV cache.

    ``full`` keeps every token, ``window`` the last ``window``, ``latent`` (MLA) one row of
    ``row_bytes`` for each ``tokens_per_row`` tokens, ``state`` (linear attention) ``state_bytes``
    for each sequence, however long.
    """

    count: int = Field(ge=1)
    kind: Literal["full", "window", "latent", "state"] = "full"
    kv_heads: int = 0
    head_dim: int = 0
    window: int = 0
    row_bytes: int = 0
    tokens_per_row: int = 1
    state_bytes: int = 0

    @model_validator(mode="after")
    def has_its_size(self) -> Layers:
        sizes = {
            "full": self.kv_heads * self.head_dim,
            "window": self.kv_heads * self.head_dim * self.window,
            "latent": self.row_bytes,
            "state": self.state_bytes,
        }
        if not sizes[self.kind]:
            raise ValueError(f"layers of kind `{self.kind}` lack the numbers of their cache")
        return self


class Mode(Part):
    """How a model is asked, thinking or not. ``sampling`` is what its developers recommend."""

    sampling: dict[str, Any] = Field(default_factory=dict)
    chat_template_args: dict[str, Any] = Field(default_factory=dict)
    reasoning_parser: str | None = None


class Variant(Part):
    """One precision of the weights: ``gib`` if the checkpoint's size is published, otherwise
    ``bytes_per_weight``. ``engine_args``: arguments of vLLM for it. ``capability``: the lowest CUDA
    compute capability (9.0 is Hopper, 10.0 Blackwell)."""

    model: str
    bytes_per_weight: float | None = Field(default=None, gt=0)
    gib: float | None = Field(default=None, gt=0)
    engine_args: dict[str, Any] = Field(default_factory=dict)
    capability: float | None = None
    needs: str | None = None

    @model_validator(mode="after")
    def has_a_size(self) -> Variant:
        if (self.bytes_per_weight is None) == (self.gib is None):
            raise ValueError("give exactly one of `bytes_per_weight` and `gib`")
        return self


class Source(Part):
    """A source of facts, with the date of the copy that was read."""

    says: str
    where: str
    date: str


class Preset(Part):
    """A model. ``parameters_b`` and ``active_b`` are in billions. The first of ``variants`` is the
    default. ``rows_as_kept``: the layers' sizes are at the cache's own precision, not at 16 bits.
    ``server_only``: only vLLM's server can separate its reasoning."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    family: str
    architecture: str
    licence: str
    parameters_b: float = Field(gt=0)
    active_b: float = Field(gt=0)
    context: int = Field(gt=0)
    layers: list[Layers] | None = None
    modes: dict[Literal["direct", "thinking"], Mode] = Field(min_length=1)
    variants: dict[str, Variant] = Field(min_length=1)
    engine_args: dict[str, Any] = Field(default_factory=dict)
    rows_as_kept: bool = False
    server_only: bool = False
    unknown: list[str] = Field(default_factory=list)
    note: str | None = None
    sources: list[Source] = Field(min_length=1)

    def weight_bytes(self, variant: str | None = None) -> int:
        given = self.variants[variant or next(iter(self.variants))]
        if given.gib is not None:
            return round(given.gib * (1 << 30))
        return round(self.parameters_b * 1e9 * (given.bytes_per_weight or 0))


class Chosen(Part):
    """A preset with one of its variants and modes, as in ``preset: NAME[/VARIANT][/MODE]``."""

    preset: Preset
    variant: str
    mode: Literal["direct", "thinking"]

    def local(self) -> dict[str, Any]:
        """The keys of a job's ``local`` that the preset sets."""
        variant, mode = self.preset.variants[self.variant], self.preset.modes[self.mode]
        given: dict[str, Any] = {
            "model": variant.model,
            "sampling": dict(mode.sampling),
            "chat_template_args": dict(mode.chat_template_args),
            "engine_args": {**self.preset.engine_args, **variant.engine_args},
        }
        if mode.reasoning_parser:
            given["reasoning_parser"] = mode.reasoning_parser
        return given


def folder() -> Path:
    """The folder of the presets: in the source tree, or where it was installed."""
    tree = Path(__file__).resolve().parents[2] / "configs" / "models"
    return tree if tree.is_dir() else Path(sysconfig.get_path("data")) / "share/surelocal/models"


@lru_cache(maxsize=1)
def presets() -> Mapping[str, Preset]:
    """All presets by name.

    Raises:
        UsageError: a preset file is missing or invalid.
    """
    found: dict[str, Preset] = {}
    for path in sorted(folder().glob("*.yaml")):
        for preset in _read(path):
            if preset.name in found:
                raise UsageError(f"{path}: the preset {preset.name} occurs twice; rename one")
            found[preset.name] = preset
    if not found:
        raise UsageError(f"no presets in {folder()}; install surelocal again")
    return found


def _read(path: Path) -> Iterator[Preset]:
    try:
        file = yaml.safe_load(path.read_text("utf-8"))
        shared = {key: value for key, value in file.items() if key != "models"}
        for model in file["models"]:
            whole = {**shared, **model}
            # A model's sources are those of the family's file and its own.
            whole["sources"] = [*shared.get("sources", []), *model.get("sources", [])]
            yield Preset.model_validate(whole)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; fix it") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: `{at}`: {first['msg']}; fix it") from None


def verified() -> Mapping[str, Mapping[str, Any]]:
    """The results of `scripts/verify_presets.py`, by architecture."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder() / VERIFIED).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def choose(text: str) -> Chosen:
    """Parses ``qwen3-8b``, ``qwen3-8b/fp8``, ``qwen3-8b/thinking`` or ``qwen3-8b/fp8/thinking``.

    Without a mode, it is the direct one if the model can answer without thinking.

    Raises:
        ValueError: there is no such preset, variant or mode.
    """
    name, *rest = str(text).split("/")
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`surelocal models` lists them"
        raise ValueError(f"no preset is called `{name}`; {hint}")
    preset = known[name]
    chosen = {"variant": next(iter(preset.variants))}
    chosen["mode"] = next(mode for mode in MODES if mode in preset.modes)
    for part in rest:
        if part in preset.variants:
            chosen["variant"] = part
        elif part in preset.modes:
            chosen["mode"] = part
        else:
            can = ", ".join(f"/{each}" for each in (*preset.variants, *preset.modes))
            raise ValueError(f"`{name}` has no `/{part}`; it has: {can}")
    return Chosen.model_validate({"preset": preset, **chosen})


def resolved(whole: dict[str, Any]) -> dict[str, Any]:
    """A job's keys with ``local.preset`` replaced by its values; the job's keys take precedence.

    Raises:
        ValueError: there is no such preset, or the job cannot use it.
    """
    local = whole.get("local")
    if not isinstance(local, dict) or "preset" not in local:
        return whole
    chosen = choose(local["preset"])
    engine = local.get("engine", "auto")
    if engine == "auto" and local.get("base_url"):
        engine = "openai_server"
    _check(chosen, engine)
    given = {key: value for key, value in local.items() if key != "preset"}
    filled = _for_engine(chosen.local(), engine)
    if chosen.mode == "direct" and _constrained(whole.get("answer")):
        # The confidence is the answer's probability: a top-p of 0.8 would turn 0.81 into 1.
        filled["sampling"] = {"temperature": 0}
    merged = {**filled, **given}
    for key in _MERGED:
        if isinstance(given.get(key, {}), dict):
            merged[key] = {**filled.get(key, {}), **given.get(key, {})}
    return {**whole, "local": merged}


def _check(chosen: Chosen, engine: object) -> None:
    name = chosen.preset.name
    if engine == "openai_server":
        return  # the server knows the prompt's template, and separates the reasoning
    if chosen.preset.server_only:
        raise ValueError(
            f"only vLLM's server can separate the reasoning of `{name}` from its answers: "
            f"start `vllm serve {chosen.preset.variants[chosen.variant].model}`, and add "
            "`engine: openai_server` with `base_url`"
        )


def _constrained(answer: object) -> bool:
    return isinstance(answer, dict) and ("schema" in answer or "labels" in answer)


def _for_engine(filled: dict[str, Any], engine: object) -> dict[str, Any]:
    """Removes settings of vLLM if the job names another engine."""
    if engine == "openai_server":  # the server has its own settings
        return {k: v for k, v in filled.items() if k not in ("engine_args", "reasoning_parser")}
    if engine == "transformers":
        sampling = {k: v for k, v in filled["sampling"].items() if k in _PLAIN_SAMPLING}
        return {**filled, "engine_args": {}, "sampling": sampling}
    return filled
