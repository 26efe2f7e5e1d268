"""The training loop: Muon on the layers' matrices, AdamW on the rest, an average of the weights."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3Config

from train_demo_model.batches import BATCH, Batch, Encoder, collate, epoch
from train_demo_model.data import Question, split
from train_demo_model.network import Network
from train_demo_model.prompts import Form, canonical
from train_demo_model.tokenizer import PAD

LEARNING_RATE = 2e-3
FINAL_RATE = 0.02
WARM_UP = 200
WEIGHT_DECAY = 0.1
CLIP = 1.0
AVERAGE = 0.998
CONTEXT = 512


@dataclass(frozen=True, slots=True)
class Size:
    """A shape of the network."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {"full": Size(192, 512, 4, 6, 3), "small": Size(128, 384, 3, 4, 2)}


def configuration(size: Size, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """The architecture in transformers' terms; what is trained is what is published."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        max_window_layers=size.layers,
    )


class Average:
    """The exponential moving average of the weights; it is what gets saved."""

    def __init__(self, network: Network) -> None:
        """Starts from the weights as they are."""
        self._live: list[Tensor] = list(network.parameters())
        self._mean = [parameter.detach().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes one step's weights in; `step` counts from 0."""
        # Early on a long memory would hold on to the random start.
        keep = min(AVERAGE, (step + 1) / (step + 10))
        torch._foreach_lerp_(self._mean, self._live, 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the average and the live weights; call twice to get back."""
        for live, mean in zip(self._live, self._mean, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)


def optimizers(network: Network) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in network.named_parameters() if ".layers." in name and p.dim() == 2]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    ]


def schedule(steps: int) -> Callable[[int], float]:
    """The rate's factor at each step: linear warm-up, then a cosine down to `FINAL_RATE`."""
    warm_up = min(WARM_UP, steps // 5)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        done = (step - warm_up) / max(1, steps - warm_up)
        return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2

    return factor


def loss_of(network: Network, batch: Batch) -> Tensor:
    """Cross-entropy of the answer's tokens, summed in each sequence, mean over the batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch.tokens[:, :-1], batch.before)
    return functional.cross_entropy(logits.float(), batch.targets, reduction="sum") / len(
        batch.tokens
    )


@torch.no_grad()
def exact_match(
    network: Network, questions: list[Question], encoder: Encoder, pad: int, form: Form
) -> float:
    """The share of questions greedy decoding would answer right, with the canonical wording.

    An answer whose every token is the likeliest one after the true tokens before it is the very
    answer greedy decoding gives, so that one pass is enough.
    """
    network.eval()
    rows = sorted(
        (encoder.exact(question, canonical(form), form) for question in questions),
        key=lambda row: len(row[0]),
    )
    right = 0
    for first in range(0, len(rows), BATCH):
        batch = collate(rows[first : first + BATCH], pad)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(batch.tokens[:, :-1], batch.before).argmax(-1)
        wrong = torch.zeros_like(batch.before)
        wrong[batch.before] = found != batch.targets
        right += int((~wrong.any(1)).sum())
    network.train()
    return right / len(rows)


@dataclass(frozen=True, slots=True)
class Run:
    """What one training run was: for the model card."""

    epochs: int
    seed: int
    questions: int
    steps: int
    parameters: int
    minutes: float


class Trainer:
    """The network with everything that changes it, step by step."""

    def __init__(self, config: Qwen3Config, steps: int) -> None:
        """`steps`: how many there will be, for the schedule of the learning rate."""
        self.network = Network(config).train()
        self.average = Average(self.network)
        self._optimizers = optimizers(self.network)
        self._schedules = [LambdaLR(optimizer, schedule(steps)) for optimizer in self._optimizers]
        self._steps = steps
        self._done = 0
        self._started = time.monotonic()

    def step(self, batch: Batch) -> float:
        """One update; returns the loss before it."""
        loss = loss_of(self.network, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        for optimizer, scheduler in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        self.average.update(self._done)
        self._done += 1
        return loss.item()

    @property
    def minutes(self) -> float:
        """How long it has been at it."""
        return (time.monotonic() - self._started) / 60

    def progress(self, loss: float) -> str | None:
        """A line for every fiftieth step."""
        if self._done % 50:
            return None
        left = self.minutes / self._done * (self._steps - self._done)
        return f"step {self._done}/{self._steps}: loss {loss:.3f}, {left:.1f} minutes left"


def train(
    config: Qwen3Config,
    tokenizer: PreTrainedTokenizerFast,
    questions: list[Question],
    epochs: int,
    seed: int,
    log: Callable[[str], None],
) -> tuple[Network, Run]:
    """Trains from random weights; the network that comes back holds the averaged ones."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    steps = epochs * math.ceil(len(questions) / BATCH)
    trainer = Trainer(config, steps)
    network, average = trainer.network, trainer.average
    encoder, pad = Encoder(tokenizer, rng), tokenizer.get_vocab()[PAD]
    validation = split("val")
    for number in range(1, epochs + 1):
        for batch in epoch(questions, encoder, pad, rng):
            line = trainer.progress(trainer.step(batch))
            if line:
                log(line)
        average.swap()
        match = [f"{exact_match(network, validation, encoder, pad, f):.1%} ({f})" for f in Form]
        average.swap()
        log(f"epoch {number}/{epochs}: validation right {', '.join(match)}")
    average.swap()
    size = sum(parameter.numel() for parameter in network.parameters())
    run = Run(epochs, seed, len(questions), steps, size, trainer.minutes)
    return network.eval(), run
