"""A Hugging Face checkpoint, loaded: model and tokenizer."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from runner.engines.transformers.decoding import first_line, near
from runner.errors import EngineError, MissingExtra, SureLocalError, UsageError

_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
# What `from_pretrained` takes out of its keyword arguments without naming it in its signature.
_LOADING = (
    *("adapter_kwargs", "allow_all_kernels", "attn_implementation", "code_revision", "device_map"),
    *("distributed_config", "dtype", "experts_implementation", "gguf_file", "kernel_config"),
    *("key_mapping", "max_memory", "offload_buffers", "offload_folder", "proxies"),
    *("quantization_config", "subfolder", "torch_dtype", "tp_plan", "tp_size"),
    *("trust_remote_code", "use_kernels", "variant"),
)


def packages() -> tuple[Any, Any, Any]:
    try:
        import torch
        import transformers
        import xgrammar

        importlib.import_module("accelerate")
    except ImportError as error:
        what = f"`{error.name or 'transformers'}` ({error}), which the transformers engine needs,"
        raise MissingExtra(what, "transformers") from None
    logging: Any = transformers.logging  # partly without types
    logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    return torch, transformers, xgrammar


def load(library: Any, model: str, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    hub = {name: arguments[name] for name in _HUB if name in arguments}
    try:
        config = library.AutoConfig.from_pretrained(model, **hub)
        _check_arguments(arguments, library, config)
        tokenizer = library.AutoTokenizer.from_pretrained(model, **hub)
        loaded = library.AutoModelForCausalLM.from_pretrained(
            model, **{"device_map": "auto", **arguments}
        )
    except SureLocalError:
        raise
    except Exception as error:
        raise EngineError(f"transformers cannot load {model}: {first_line(error)}") from error
    return loaded, tokenizer


def _check_arguments(arguments: Mapping[str, Any], library: Any, config: Any) -> None:
    """`from_pretrained` would say so only after the weights are read, and by a class's name."""
    signature = inspect.signature(library.PreTrainedModel.from_pretrained)
    named = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    known = {"batch_size", *named, *_LOADING, *config.to_dict()}
    for name in arguments:
        if name not in known:
            raise UsageError(
                f"local.engine_args: transformers has no argument `{name}`{near(name, known)}"
            )


def end_tokens(tokenizer: Any, generation_config: Any) -> list[int]:
    """Every token that ends an answer, as vLLM takes them: the tokenizer's and the checkpoint's."""
    given = generation_config.eos_token_id
    ends = {given} if isinstance(given, int) else set(given or ())
    return sorted(ends | {tokenizer.eos_token_id} - {None})
