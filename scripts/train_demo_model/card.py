"""The model card, written with the numbers just measured."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config

from train_demo_model.batches import BATCH, BPE_DROPOUT, TOKEN_DROPOUT
from train_demo_model.evaluate import Figures
from train_demo_model.network import EMBEDDING_DROPOUT, RESIDUAL_DROPOUT
from train_demo_model.prompts import HELD_OUT, Form, answer, canonical
from train_demo_model.train import AVERAGE, LEARNING_RATE, WEIGHT_DECAY, Run

_CARD = """\
---
license: cc-by-3.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The demo model

A chat model of {parameters:.2f} million parameters ({megabytes:.1f} MB) in the Qwen3 architecture,
trained from random weights on a CPU. It sorts a customer's message into one of 150 intents. It is
here so that the demo and the tests run a real model, with real mistakes and real probabilities,
on any machine and without a download.

**It is not for production.** It knows English, one task and 150 intents, it always names one of
them, and it can do nothing else: it cannot converse, follow another instruction, or say that it
does not know. It shares only its architecture with Qwen3, neither weights nor quality.

This page is written by `python scripts/train_demo_model`; the numbers are of this checkpoint.

## Use

The system instruction decides the form of the answer; the user turn is the customer's message.

| system instruction | answer to "my card was declined" |
|---|---|
| {label_instruction} | `{label_answer}` |
| {json_instruction} | `{json_answer}` |

Keep to these two wordings. Each was trained along with {variants} others, which may be used too
(`scripts/train_demo_model/prompts.py`); a wording of your own costs accuracy, as measured below.
The context is {context} tokens, the chat template ChatML, the end of an answer `<|im_end|>`, and
decoding is greedy.

## Measured

CLINC150's test split, {tests:,} questions in scope, none of them trained on; greedy generation
through transformers, weights in bfloat16, arithmetic in float32. Right means the exact text.

| | label | JSON |
|---|---|---|
| canonical wording | {label:.1%} | {json:.1%} |
| a wording never trained on | {held_label:.1%} | {held_json:.1%} |

In JSON, {valid:.2%} of the answers are one of the 150 valid objects, and {domain:.1%} have the
right domain.

The probability of the whole label (product over its tokens, end token included), not calibrated:

| questions | mean probability |
|---|---|
| in scope | {p_in:.3f} |
| in scope, answered right | {p_right:.3f} |
| in scope, answered wrong | {p_wrong:.3f} |
| out of scope (1,000 questions, never trained on) | {p_out:.3f} |

It ranks right above wrong answers with an AUROC of {auroc_right:.3f}, and questions in scope above
those out of scope with {auroc_scope:.3f}.

## Known failures

- An out-of-scope question also gets an intent, often but not always with a lower probability.
- {weakest}
- {confusions}
- The wordings never trained on are "{held_label_text}"
  and "{held_json_text}"
  What they lose above, any wording of your own may lose, and one far from the task loses more.
- The training questions are short and lower case. Capitals, end marks and short greetings were
  added to some; long messages, several questions at once, and other languages were not.

## Training

- Data: CLINC150's `train` split, {questions:,} questions (those repeated word for word in any other
  split left out); tokenizer and weights saw nothing else. `val` was watched, `test` only measured.
  No out-of-scope question was trained on.
- Architecture: `Qwen3ForCausalLM`, hidden size {hidden}, intermediate size {intermediate},
  {layers} layers, {heads} heads ({kv_heads} for keys and values), head size {head_dim},
  tied embeddings, vocabulary {vocabulary:,}.
- {epochs} epochs, {steps:,} steps of {batch} questions, {minutes:.0f} minutes on a CPU
  ({threads}) shared with other work; matrix products in bfloat16.
- Muon on the layers' matrices, AdamW on embedding and norms; learning rate {rate:g} with
  warm-up and cosine decay, weight decay {decay:g}; the weights are an exponential average
  ({average:g}).
- Loss on the answer's tokens only, a third of the answers JSON, no label smoothing (it ruins the
  probabilities). Dropout: residual {residual:g}, embedding {embedding:g},
  token {token:g}, BPE {bpe:g}.
- To reproduce: `python scripts/train_demo_model --epochs {epochs} --seed {seed}`. The same machine,
  software and thread count give the same weights, byte for byte.

## Credit and license

The weights are derived from CLINC150 (Stefan Larson et al., *An Evaluation Dataset for Intent
Classification and Out-of-Scope Prediction*, EMNLP 2019), which is published under
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/). The checkpoint is under the same license,
with that credit.
"""


def _measured(figures: Figures) -> dict[str, object]:
    weakest = ", ".join(f"`{intent}` ({share:.0%})" for intent, share in figures.weakest)
    confusions = ", ".join(f"`{t}` as `{f}` ({n})" for t, f, n in figures.confusions)
    return {
        "label": figures.accuracy[Form.LABEL],
        "json": figures.accuracy[Form.JSON],
        "held_label": figures.held_out[Form.LABEL],
        "held_json": figures.held_out[Form.JSON],
        "valid": figures.valid_json,
        "domain": figures.domain_right,
        "p_in": figures.probability_in_scope,
        "p_right": figures.probability_right,
        "p_wrong": figures.probability_wrong,
        "p_out": figures.probability_out_of_scope,
        "auroc_right": figures.auroc_right,
        "auroc_scope": figures.auroc_in_scope,
        "weakest": f"The weakest intents, with the share of their 30 questions right: {weakest}.",
        "confusions": f"The commonest mistakes, with how often: {confusions}.",
    }


def _trained(run: Run, config: Qwen3Config) -> dict[str, object]:
    return {
        "parameters": run.parameters / 1e6,
        "questions": run.questions,
        "epochs": run.epochs,
        "steps": run.steps,
        "seed": run.seed,
        "minutes": run.minutes,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
    }


def _threads() -> str:
    count = torch.get_num_threads()
    return "one thread" if count == 1 else f"{count} threads"


def write_card(
    folder: Path, run: Run, config: Qwen3Config, figures: Figures, tests: int, variants: int
) -> None:
    """Writes `README.md` into the checkpoint's folder."""
    text = _CARD.format(
        **_measured(figures),
        **_trained(run, config),
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        tests=tests,
        variants=variants,
        label_instruction=canonical(Form.LABEL),
        json_instruction=canonical(Form.JSON),
        label_answer=answer(Form.LABEL, "card_declined", "credit_cards"),
        json_answer=answer(Form.JSON, "card_declined", "credit_cards"),
        held_label_text=HELD_OUT[Form.LABEL],
        held_json_text=HELD_OUT[Form.JSON],
        batch=BATCH,
        rate=LEARNING_RATE,
        decay=WEIGHT_DECAY,
        average=AVERAGE,
        residual=RESIDUAL_DROPOUT,
        embedding=EMBEDDING_DROPOUT,
        token=TOKEN_DROPOUT,
        bpe=BPE_DROPOUT,
        threads=_threads(),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
