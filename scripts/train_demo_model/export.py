"""The trained network as a checkpoint that transformers and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from train_demo_model.network import Network

TOLERANCE = 1e-4

# transformers leaves parts of its interface untyped.
_GenerationConfig: Any = GenerationConfig
_Model: Any = Qwen3ForCausalLM


def save(
    network: Network, config: Qwen3Config, tokenizer: PreTrainedTokenizerFast, output: Path
) -> None:
    """Writes config, generation config, bf16 weights and tokenizer to `output`."""
    model = _Model(config)
    state = network.state_dict()
    # Tied: the output projection is the embedding, and is not stored twice.
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    # Greedy by default, and the end of the turn ends the answer.
    model.generation_config = _GenerationConfig(
        do_sample=False,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(output)
    # In the tokenizer's own file: every loader looks there for the template.
    tokenizer.save_pretrained(output, save_jinja_files=False)
    for path in output.iterdir():
        path.chmod(0o644)


@torch.no_grad()
def check_logits(network: Network, output: Path) -> float:
    """The greatest difference between this network's logits and transformers', same weights.

    Raises AssertionError where it is more than `TOLERANCE`: then the training-time network is
    not the architecture that was published. Loads the rounded weights into `network`.
    """
    model = _Model.from_pretrained(output, dtype=torch.float32).eval()
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    network.load_state_dict(state)
    tokens = torch.randint(model.config.vocab_size, (4, 48), generator=torch.manual_seed(0))
    ours = network.eval()(tokens, torch.ones_like(tokens, dtype=torch.bool))
    theirs = model(tokens).logits.flatten(0, 1)
    difference = float((ours - theirs).abs().max())
    if difference > TOLERANCE:
        raise AssertionError(f"logits differ from transformers' by {difference:.2g}")
    return difference
