"""Random-weight checkpoints of the presets' architectures, shrunk until they load in a second.

The config class and the weights' names are the real ones, of transformers; layers, widths and
experts are few. The tokenizer is one byte a token, with the family's own marks for turns and
thinking; the chat template is a short one in the family's form (the real ones are on the hub).
With so few tokens a model that draws at random ends its thinking by chance, sooner or later.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = 1024
_COMMON: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
}
# MLA's kernels take the real head sizes alone.
_MLA: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "kv_lora_rank": 512,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
_INDEXER: dict[str, Any] = {"index_head_dim": 128, "index_n_heads": 4, "index_topk": 64}
_WINDOWED: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64,
}
_LINEAR: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}


@dataclass(frozen=True)
class Tiny:
    """``kind`` is transformers' model type. Where the preset's architecture has a vision part,
    only its language model is made, under the name ``made_as``."""

    kind: str
    made_as: str
    marks: str = "chatml"
    changes: dict[str, Any] = field(default_factory=dict)


TINY: dict[str, Tiny] = {
    "Qwen3ForCausalLM": Tiny("qwen3", "Qwen3ForCausalLM"),
    "Qwen3MoeForCausalLM": Tiny("qwen3_moe", "Qwen3MoeForCausalLM", changes=_EXPERTS),
    "Qwen3_5ForConditionalGeneration": Tiny(
        "qwen3_5_text", "Qwen3_5ForCausalLM", "chatml_open", _LINEAR
    ),
    "Qwen3_5MoeForConditionalGeneration": Tiny(
        "qwen3_5_moe_text",
        "Qwen3_5MoeForCausalLM",
        "chatml_open",
        {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 64},
    ),
    "Qwen2ForCausalLM": Tiny("qwen2", "Qwen2ForCausalLM", "deepseek"),
    "LlamaForCausalLM": Tiny("llama", "LlamaForCausalLM", "deepseek"),
    "DeepseekV3ForCausalLM": Tiny(
        "deepseek_v3", "DeepseekV3ForCausalLM", "deepseek", {**_MLA, **_ROUTED}
    ),
    "DeepseekV4ForCausalLM": Tiny(
        "deepseek_v4",
        "DeepseekV4ForCausalLM",
        "deepseek",
        {**_ROUTED, **_INDEXER, "head_dim": 512, "num_key_value_heads": 1, "q_lora_rank": 64},
    ),
    "Glm4MoeForCausalLM": Tiny("glm4_moe", "Glm4MoeForCausalLM", "glm", _ROUTED),
    "Glm4MoeLiteForCausalLM": Tiny(
        "glm4_moe_lite", "Glm4MoeLiteForCausalLM", "glm", {**_MLA, **_ROUTED}
    ),
    "GlmMoeDsaForCausalLM": Tiny(
        "glm_moe_dsa", "GlmMoeDsaForCausalLM", "glm", {**_MLA, **_ROUTED, **_INDEXER}
    ),
    # Kimi K2.6's language model is DeepSeek V3's.
    "KimiK25ForConditionalGeneration": Tiny(
        "deepseek_v3", "DeepseekV3ForCausalLM", "kimi", {**_MLA, **_ROUTED}
    ),
    "Llama4ForConditionalGeneration": Tiny(
        "llama4_text",
        "Llama4ForCausalLM",
        "chatml",
        {"num_local_experts": 4, "intermediate_size_mlp": 128, "num_hidden_layers": 4},
    ),
    "Gemma3ForConditionalGeneration": Tiny(
        "gemma3_text", "Gemma3ForCausalLM", "gemma", {**_WINDOWED, "query_pre_attn_scalar": 32}
    ),
    "Gemma4ForConditionalGeneration": Tiny(
        "gemma4_text",
        "Gemma4ForCausalLM",
        "gemma4",
        {**_WINDOWED, "global_head_dim": 64, "hidden_size_per_layer_input": 0},
    ),
    # In vLLM, Gemma 4 12B's language model is the same class.
    "Gemma4UnifiedForConditionalGeneration": Tiny(
        "gemma4_text",
        "Gemma4ForCausalLM",
        "gemma4",
        {**_WINDOWED, "global_head_dim": 64, "hidden_size_per_layer_input": 0},
    ),
    "GptOssForCausalLM": Tiny(
        "gpt_oss",
        "GptOssForCausalLM",
        "harmony",
        {**_WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 64},
    ),
}

_THINK = ["<think>", "</think>"]
_OPEN = "{% if enable_thinking is not defined or enable_thinking %}"
_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
_CLOSED = "<think>\n\n</think>\n\n"
# Each family's marks: the end of a turn, the others, and the template.
MARKS: dict[str, tuple[str, list[str], str]] = {
    "chatml": (
        "<|im_end|>",
        ["<|im_start|>", "<think>", "</think>"],
        _TURNS
        + "{% if enable_thinking is defined and not enable_thinking %}"
        + _CLOSED
        + "{% endif %}{% endif %}",
    ),
    "chatml_open": (
        "<|im_end|>",
        ["<|im_start|>", "<think>", "</think>"],
        _TURNS + _OPEN + "<think>\n{% else %}" + _CLOSED + "{% endif %}{% endif %}",
    ),
    "deepseek": (
        "<\uff5cend▁of▁sentence\uff5c>",
        ["<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<think>", "</think>"],
        "{% for m in messages %}{% if m.role == 'user' %}<\uff5cUser\uff5c>{% endif %}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<\uff5cAssistant\uff5c>"
        "{% if thinking is defined and not thinking %}</think>{% else %}<think>\n{% endif %}"
        "{% endif %}",
    ),
    "glm": (
        "<|endoftext|>",
        ["<|system|>", "<|user|>", "<|assistant|>", "<think>", "</think>"],
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>"
        "{% if enable_thinking is defined and not enable_thinking %}\n<think></think>"
        "{% endif %}{% endif %}",
    ),
    "kimi": (
        "<|im_end|>",
        [
            "<|im_user|>",
            "<|im_system|>",
            "<|im_assistant|>",
            "<|im_middle|>",
            "<think>",
            "</think>",
        ],
        "{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_assistant|>assistant"
        "<|im_middle|>{% if thinking is defined and not thinking %}<think></think>"
        "{% else %}<think>{% endif %}{% endif %}",
    ),
    "gemma": (
        "<end_of_turn>",
        ["<start_of_turn>"],
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    "gemma4": (
        "<turn|>",
        ["<|turn>", "<|channel>", "<channel|>", "<|think|>", "<|tool_call>", "<tool_call|>"],
        "{% if enable_thinking is defined and enable_thinking %}<|think|>{% endif %}"
        "{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn>model\n{% endif %}",
    ),
    "harmony": (
        "<|return|>",
        ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>"],
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ),
}


def make_tiny(architecture: str, folder: Path) -> Tiny:
    """Writes the checkpoint and its tokenizer; the same bytes each time."""
    import torch

    transformers: Any = importlib.import_module("transformers")  # partly without types
    tiny = TINY[architecture]
    tokenizer = _tokenizer(tiny.marks)
    tokenizer.save_pretrained(folder)
    ends = tokenizer.eos_token_id
    given = {**_COMMON, **tiny.changes, "vocab_size": len(tokenizer)}
    marks = {"eos_token_id": ends, "bos_token_id": None, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(tiny.kind, **given, **marks)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends, pad_token_id=0)
    model.save_pretrained(folder)
    _name(folder / "config.json", tiny.made_as)
    return tiny


def _tokenizer(marks: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    end, others, template = MARKS[marks]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    # As in the families' own: what is thought stays in the text, turns do not.
    thought = {"<think>", "</think>", "<|channel>", "<channel|>"}
    bare.add_tokens([AddedToken(m, special=m not in thought, normalized=False) for m in others])
    bare.add_special_tokens([AddedToken(end, special=True, normalized=False)])
    whole = importlib.import_module("transformers").PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=end, pad_token=letters[0], model_max_length=CONTEXT
    )
    whole.chat_template = template
    return whole


def _name(path: Path, made_as: str) -> None:
    config = json.loads(path.read_text("utf-8"))
    config["architectures"] = [made_as]
    path.write_text(json.dumps(config, indent=2), "utf-8")
