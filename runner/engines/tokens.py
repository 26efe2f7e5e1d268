"""Between text and token ids, for the engines that run the model themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import RecordError, UsageError
from runner.types import Completion, Prompt, Reason


class Tokens:
    """A Hugging Face tokenizer with its chat template, as `Prompt` and `Completion` need it."""

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._template_args = dict(template_args)
        self._pieces: dict[tuple[int, bool], str] = {}

    def encode(self, prompt: Prompt, limit: int, max_tokens: int) -> list[int]:
        """The prompt's token ids by the model's own chat template.

        Raises:
            RecordError: it and ``max_tokens`` do not fit into the model's ``limit`` positions.
        """
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            token_ids: list[int] = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False, **self._template_args
            )
        except ValueError as error:
            if getattr(self._tokenizer, "chat_template", None) is None:
                raise UsageError(
                    "the model's tokenizer has no chat template; take the model's -Instruct form"
                ) from None
            raise RecordError(f"the chat template failed: {error}", Reason.BAD_PROMPT) from None
        if len(token_ids) + max_tokens > limit:
            raise RecordError(
                f"the prompt is {len(token_ids):,} tokens, and with max_tokens {max_tokens} passes "
                f"the model's {limit:,}; shorten the record or the prompt",
                Reason.BAD_PROMPT,
            )
        return token_ids

    def pieces(
        self, token_ids: Sequence[int], text: str, *, keep_special: bool = False
    ) -> tuple[str, ...]:
        """Each token's text; the pieces join to ``text``."""
        pieces = tuple(self._piece(t, keep_special) for t in token_ids)
        if "".join(pieces) == text:
            return pieces
        # A character of several tokens decodes only as a whole: its last token carries it.
        out, before = [], ""
        for end in range(1, len(token_ids) + 1):
            so_far = self._decode(token_ids[:end], keep_special)
            if so_far.endswith("�"):
                so_far = before
            out.append(so_far[len(before) :])
            before = so_far
        return tuple(out)

    def _piece(self, token_id: int, keep_special: bool) -> str:
        key = (token_id, keep_special)
        if key not in self._pieces:
            self._pieces[key] = self._decode([token_id], keep_special)
        return self._pieces[key]

    def _decode(self, token_ids: Sequence[int], keep_special: bool) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids),
                skip_special_tokens=not keep_special,
                clean_up_tokenization_spaces=False,
            )
        )


def split_reasoning(completion: Completion, parser: Any) -> Completion:
    """The answer without the model's reasoning, by one of vLLM's parsers.

    The answer is a suffix of what was generated, so its tokens and logprobs are a suffix too.
    A completion that ended inside the reasoning has no answer: empty text, reason ``length``.
    """
    # The parsers' `request` is the server's request object; none of the families reads it offline.
    reasoning, answer = parser.extract_reasoning(completion.text, None)
    if not answer:
        return replace(completion, text="", tokens=(), logprobs=None, reasoning=reasoning)
    start = completion.text.rfind(answer)
    if start < 0:
        return replace(completion, text=answer, tokens=(), logprobs=None, reasoning=reasoning)
    first, at = 0, 0
    while first < len(completion.tokens) and at + len(completion.tokens[first]) <= start:
        at += len(completion.tokens[first])
        first += 1
    tokens = list(completion.tokens[first:])
    if tokens:
        tokens[0] = tokens[0][start - at :]
    logprobs = completion.logprobs[first:] if completion.logprobs is not None else None
    text = "".join(tokens)
    extra = len(text) - len(answer)
    while extra > 0 and tokens:
        last = len(tokens) - 1 - next(i for i, t in enumerate(reversed(tokens)) if t)
        cut = min(extra, len(tokens[last]))
        tokens[last] = tokens[last][: len(tokens[last]) - cut]
        extra -= cut
    return replace(
        completion, text=answer, tokens=tuple(tokens), logprobs=logprobs, reasoning=reasoning
    )
