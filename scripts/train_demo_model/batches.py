"""Questions to padded batches of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from train_demo_model.data import Question, varied
from train_demo_model.prompts import WORDINGS, Form, answer, canonical
from train_demo_model.tokenizer import END, PAD, START, DropoutEncoder

BATCH = 128
BPE_DROPOUT = 0.1
TOKEN_DROPOUT = 0.1
JSON_SHARE = 1 / 3
CANONICAL_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded sequences. tokens: (batch, time); answers: (batch, time), true where the
    token belongs to the answer (its end token included) and is to be predicted."""

    tokens: Tensor
    answers: Tensor

    @property
    def before(self) -> Tensor:
        """(batch, time - 1): true at each position whose next token belongs to the answer."""
        return self.answers[:, 1:]

    @property
    def targets(self) -> Tensor:
        """(answer tokens,): what is to be predicted, row by row."""
        return self.tokens[:, 1:][self.before]


class Encoder:
    """Puts a question, an instruction and an answer into the chat template, as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        """`rng` draws everything that is random, here and in the question's variation."""
        self._plain = DropoutEncoder(tokenizer, 0.0, rng)
        self._dropout = DropoutEncoder(tokenizer, BPE_DROPOUT, rng)
        self._rng = rng
        self._id: dict[str, int] = tokenizer.get_vocab()
        self._cache: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._plain.encode(text)
        return self._cache[text]

    def _drop(self, ids: list[int]) -> list[int]:
        draw, pad = self._rng.random, self._id[PAD]
        return [pad if draw() < TOKEN_DROPOUT else token for token in ids]

    def _chat(self, system: list[int], user: list[int], reply: list[int]) -> list[int]:
        start, end, line = self._id[START], self._id[END], self._encode("\n")
        turn = [start, *self._encode("system\n"), *system, end, *line]
        turn += [start, *self._encode("user\n"), *user, end, *line]
        return [*turn, start, *self._encode("assistant\n"), *reply, end]

    def exact(self, question: Question, system: str, form: Form) -> tuple[list[int], int]:
        """Token ids of the whole chat and how many of them, at the end, are the answer."""
        reply = self._encode(answer(form, question.intent, question.domain))
        chat = self._chat(self._encode(system), self._encode(question.text), reply)
        return chat, len(reply) + 1

    def noisy(self, question: Question) -> tuple[list[int], int]:
        """The same for training: form and wording drawn, the question varied, tokens dropped."""
        rng = self._rng
        form = Form.JSON if rng.random() < JSON_SHARE else Form.LABEL
        usual = rng.random() < CANONICAL_SHARE
        system = canonical(form) if usual else rng.choice(WORDINGS[form])
        user = self._dropout.encode(varied(question.text, rng))
        reply = self._encode(answer(form, question.intent, question.domain))
        chat = self._chat(self._drop(self._encode(system)), self._drop(user), reply)
        return chat, len(reply) + 1


def collate(rows: list[tuple[list[int], int]], pad: int) -> Batch:
    """Pads the rows of one batch to its longest."""
    time = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), time), pad)
    answers = torch.zeros((len(rows), time), dtype=torch.bool)
    for row, (ids, reply) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        answers[row, len(ids) - reply : len(ids)] = True
    return Batch(tokens, answers)


def epoch(
    questions: list[Question], encoder: Encoder, pad: int, rng: random.Random
) -> Iterator[Batch]:
    """One pass in random order; sequences of like length share a batch, to pad little."""
    order = rng.sample(questions, len(questions))
    pool = 16 * BATCH
    for first in range(0, len(order), pool):
        rows = sorted(
            (encoder.noisy(question) for question in order[first : first + pool]),
            key=lambda row: len(row[0]),
        )
        groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, pad)
