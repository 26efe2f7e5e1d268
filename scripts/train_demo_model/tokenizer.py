"""The demo model's tokenizer: byte-level BPE with Qwen's split, and a ChatML template."""

from __future__ import annotations

import json
import random
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from train_demo_model.data import Question, as_written
from train_demo_model.prompts import WORDINGS, Form, answer

# transformers leaves the constructor untyped.
_Tokenizer: Any = PreTrainedTokenizerFast

VOCABULARY = 4096
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Qwen2's split, unchanged: a leading `_` stays with its word, so `_declined` is one token, and
# any loader that rebuilds the pipeline from the architecture's name builds this very one.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def train_tokenizer(questions: list[Question], context: int, seed: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `VOCABULARY` tokens from the training questions, labels and instructions."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (PAD, START, END)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(questions, seed), trainer)
    return _Tokenizer(  # type: ignore[no-any-return]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _corpus(questions: list[Question], seed: int) -> list[str]:
    # Labels, roles and instructions often enough that each of their words becomes one token.
    rng = random.Random(seed)
    labels = sorted({(question.intent, question.domain) for question in questions})
    answers = [answer(form, *label) for form in Form for label in labels]
    instructions = [wording for form in Form for wording in WORDINGS[form]]
    written = [as_written(question.text, rng) for question in questions[::5]]
    rare = ["system\n", "user\n", "assistant\n", *answers, *instructions]
    return [question.text for question in questions] + written + 60 * rare


class DropoutEncoder:
    """Encodes text with BPE dropout (Provilkov et al., ACL 2020).

    `tokenizers` has it too, but draws from a generator that cannot be seeded; training here has
    to give the same bytes twice.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rate: float, rng: random.Random) -> None:
        """`rate` is the share of merges skipped, 0 for none."""
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._rate = rate
        self._rng = rng
        self._pieces: dict[str, list[str]] = {}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        merges = json.loads(self._backend.to_str())["model"]["merges"]
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        return dict(self._backend.get_vocab())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens, each merge skipped at the given rate."""
        vocabulary = self._vocabulary
        return [vocabulary[symbol] for piece in self._split(text) for symbol in self._merge(piece)]

    def _split(self, text: str) -> list[str]:
        if text not in self._pieces:
            split = self._backend.pre_tokenizer.pre_tokenize_str(text)
            self._pieces[text] = [piece for piece, _ in split]
        return self._pieces[text]

    def _merge(self, piece: str) -> list[str]:
        symbols = list(piece)
        draw = self._rng.random
        while len(symbols) > 1:
            best, at = len(self._ranks), -1
            for i in range(len(symbols) - 1):
                rank = self._ranks.get((symbols[i], symbols[i + 1]), best)
                if rank < best and draw() >= self._rate:
                    best, at = rank, i
            if at < 0:
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return symbols
