"""The saved checkpoint, measured through transformers' greedy generation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from train_demo_model.data import Question, split
from train_demo_model.prompts import HELD_OUT, Form, answer, canonical

BATCH = 250
LONGEST_ANSWER = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """A greedy answer with its probability (of the whole text, end token included)."""

    text: str
    probability: float


@dataclass(slots=True)
class Figures:
    """The measured numbers; shares and probabilities are between 0 and 1."""

    accuracy: dict[Form, float] = field(default_factory=dict)
    held_out: dict[Form, float] = field(default_factory=dict)
    domain_right: float = 0.0
    valid_json: float = 0.0
    probability_right: float = 0.0
    probability_wrong: float = 0.0
    probability_in_scope: float = 0.0
    probability_out_of_scope: float = 0.0
    auroc_right: float = 0.0
    auroc_in_scope: float = 0.0
    confusions: list[tuple[str, str, int]] = field(default_factory=list)
    weakest: list[tuple[str, float]] = field(default_factory=list)


class Model:
    """A checkpoint on disk, with its weights as floats of 32 bits."""

    def __init__(self, folder: Path) -> None:
        """Loads tokenizer and weights from `folder`."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def ask(self, system: str, texts: list[str]) -> list[Reply]:
        """The greedy answers to `texts`, in their order."""
        replies: list[Reply | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            for row, reply in zip(rows, self._batch(system, [texts[i] for i in rows]), strict=True):
                replies[row] = reply
        return [reply for reply in replies if reply is not None]

    @torch.inference_mode()
    def _batch(self, system: str, texts: list[str]) -> list[Reply]:
        chats = [
            [{"role": "system", "content": system}, {"role": "user", "content": text}]
            for text in texts
        ]
        inputs = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        out = self._model.generate(
            **inputs,
            max_new_tokens=LONGEST_ANSWER,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
        logprobs = torch.stack(out.logits, 1).log_softmax(-1)
        chosen = logprobs.gather(-1, tokens[..., None])[..., 0]
        # What follows the end token is padding, and no part of the answer.
        chosen = chosen.masked_fill(tokens == self._tokenizer.pad_token_id, 0.0)
        probabilities = chosen.sum(-1).exp().tolist()
        strings = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Reply(text, p) for text, p in zip(strings, probabilities, strict=True)]


def auroc(positive: list[float], negative: list[float]) -> float:
    """The chance that a positive's score is above a negative's (ties count a half)."""
    if not positive or not negative:
        return float("nan")
    highs, lows = torch.tensor(positive), torch.tensor(negative).sort().values
    below = torch.searchsorted(lows, highs, right=False)
    upto = torch.searchsorted(lows, highs, right=True)
    return float((below + upto).double().mean() / (2 * len(lows)))


def _right(form: Form, questions: list[Question], replies: list[Reply]) -> list[bool]:
    wanted = [answer(form, question.intent, question.domain) for question in questions]
    return [reply.text == text for reply, text in zip(replies, wanted, strict=True)]


def _mean(values: list[float] | list[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")


def evaluate(folder: Path, log: Callable[[str], None]) -> Figures:
    """Every figure of the model card, on the test split and the out-of-scope test questions."""
    model, figures = Model(folder), Figures()
    questions = split("test")
    texts = [question.text for question in questions]
    for form in Form:
        replies = model.ask(canonical(form), texts)
        figures.accuracy[form] = _mean(_right(form, questions, replies))
        log(f"test, {form}: {figures.accuracy[form]:.1%} right")
        if form is Form.LABEL:
            _confidence(figures, questions, replies, model)
            _failures(figures, questions, replies)
        else:
            _json(figures, questions, replies)
        unseen = model.ask(HELD_OUT[form], texts)
        figures.held_out[form] = _mean(_right(form, questions, unseen))
        log(f"test, {form}, a wording not trained on: {figures.held_out[form]:.1%} right")
    return figures


def _confidence(
    figures: Figures, questions: list[Question], replies: list[Reply], model: Model
) -> None:
    right = _right(Form.LABEL, questions, replies)
    good = [r.probability for r, ok in zip(replies, right, strict=True) if ok]
    bad = [r.probability for r, ok in zip(replies, right, strict=True) if not ok]
    strangers = model.ask(canonical(Form.LABEL), [q.text for q in split("oos_test")])
    outside = [reply.probability for reply in strangers]
    figures.probability_right, figures.probability_wrong = _mean(good), _mean(bad)
    figures.probability_in_scope, figures.probability_out_of_scope = (
        _mean(good + bad),
        _mean(outside),
    )
    figures.auroc_right, figures.auroc_in_scope = auroc(good, bad), auroc(good + bad, outside)


def _failures(figures: Figures, questions: list[Question], replies: list[Reply]) -> None:
    pairs = [(q.intent, r.text) for q, r in zip(questions, replies, strict=True)]
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    figures.confusions = [(*pair, count) for pair, count in wrong.most_common(6)]
    total = Counter(intent for intent, _ in pairs)
    hits = Counter(intent for intent, found in pairs if intent == found)
    shares = sorted(
        ((intent, hits[intent] / total[intent]) for intent in total), key=lambda s: s[1]
    )
    figures.weakest = shares[:6]


def _json(figures: Figures, questions: list[Question], replies: list[Reply]) -> None:
    # The form is exact, so that the text itself says whether it is one of the 150 objects.
    objects = {answer(Form.JSON, q.intent, q.domain) for q in questions}
    figures.valid_json = _mean([reply.text in objects for reply in replies])
    figures.domain_right = _mean(
        [f'"domain": "{q.domain}"' in r.text for q, r in zip(questions, replies, strict=True)]
    )
