"""A Qwen3 decoder that trains fast on a CPU, with the parameter names of transformers' own.

The stock implementation spends half of a step in the backward pass of its attention and projects
every position onto the vocabulary. Here attention is plain matrix products, which is fastest at
fifty tokens, and past the last attention only the positions before the answer's tokens go on. The
weights load into `Qwen3ForCausalLM` unchanged and give the same logits (`export.check_logits`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3Config

RESIDUAL_DROPOUT = 0.15
EMBEDDING_DROPOUT = 0.1


class Dropout(nn.Module):
    """Dropout with eight random bytes a draw, where `nn.Dropout` draws once for each element.

    On a CPU the stock one takes as long as the matrix products around it.
    """

    def __init__(self, rate: float) -> None:
        """`rate` is rounded to a 256th."""
        super().__init__()
        self._cut = round(rate * 256)

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape; scaled so that the mean stays."""
        if not self.training:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self._cut
        return x * kept.float().mul_(256 / (256 - self._cut))


class Attention(nn.Module):
    """Causal grouped-query attention with Qwen3's norms on queries and keys."""

    def __init__(self, config: Qwen3Config) -> None:
        """Its parts in the sizes of `config`."""
        super().__init__()
        hidden, size = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads or 1
        self.size = size
        self.q_proj = nn.Linear(hidden, self.heads * size, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(self.heads * size, hidden, bias=False)
        self.q_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x: (batch, time, hidden); cos, sin: (time, size); mask: (time, time), -inf or 0."""
        batch, time, _ = x.shape
        groups = self.heads // self.kv_heads
        # Autocast hands the products back as bf16, for which the fused norm has no kernel.
        q = self.q_proj(x).float().view(batch, time, self.heads, self.size)
        k = self.k_proj(x).float().view(batch, time, self.kv_heads, self.size)
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        v = self.v_proj(x).view(batch, time, self.kv_heads, self.size).transpose(1, 2)
        q, k = _rotate(q, cos, sin) * self.size**-0.5, _rotate(k, cos, sin)
        # The queries of one group share a key head: fold them into the time axis instead of
        # repeating the keys.
        q = q.reshape(batch, self.kv_heads, groups * time, self.size)
        scores = (q @ k.transpose(2, 3)).view(batch, self.heads, time, time) + mask
        weights = scores.softmax(-1).to(v.dtype).view(batch, self.kv_heads, groups * time, time)
        mixed: Tensor = (weights @ v).view(batch, self.heads, time, self.size).transpose(1, 2)
        projected: Tensor = self.o_proj(mixed.reshape(batch, time, -1))
        return projected


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class FeedForward(nn.Module):
    """The gated SiLU layer."""

    def __init__(self, config: Qwen3Config) -> None:
        """Its parts in the sizes of `config`."""
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, time, hidden), and so the result."""
        projected: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return projected


class Layer(nn.Module):
    """One decoder layer, norms first."""

    def __init__(self, config: Qwen3Config) -> None:
        """Its parts in the sizes of `config`."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = Dropout(RESIDUAL_DROPOUT)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """x: (batch, time, hidden); cos, sin: (time, size); mask: (time, time).

        With `at`, (batch, time), only the positions where it is true come out: (positions, hidden).
        """
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, mask))
        if at is not None:
            x = x[at]
        mixed: Tensor = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return mixed


class Decoder(nn.Module):
    """Embedding, layers and final norm; `model` in transformers' parameter names."""

    def __init__(self, config: Qwen3Config) -> None:
        """Its parts in the sizes of `config`."""
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = Dropout(EMBEDDING_DROPOUT)


class Network(nn.Module):
    """The whole model; its embedding is also its output projection."""

    def __init__(self, config: Qwen3Config) -> None:
        """Its parts in the sizes of `config`."""
        super().__init__()
        self.model = Decoder(config)
        base = float(cast(Any, config.rope_parameters)["rope_theta"])
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        angles = torch.outer(torch.arange(config.max_position_embeddings), base**-steps)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise(config)

    def _initialise(self, config: Qwen3Config) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Each layer adds twice to the residual stream; its sum keeps the unit's scale.
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * config.num_hidden_layers) ** -0.5 if out else 1.0
                nn.init.normal_(parameter, std=config.initializer_range * shrink)

    def forward(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Logits where they are wanted.

        tokens: (batch, time) ids, padded on the right, so that the causal mask is enough;
        at: (batch, time), true at the positions to project. Returns (positions, vocabulary).
        """
        time = tokens.shape[1]
        cos, sin = self.get_buffer("cos")[:time], self.get_buffer("sin")[:time]
        mask = torch.full((time, time), float("-inf")).triu(1)
        x = self.model.dropout(self.model.embed_tokens(tokens))
        *lower, last = self.model.layers
        for layer in lower:
            x = layer(x, cos, sin, mask)
        x = last(x, cos, sin, mask, at)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)
