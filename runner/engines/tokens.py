"""Between text and token ids, for the engines that run the model themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import RecordError, UsageError
from runner.types import Alternatives, Completion, Prompt, Reason


class Tokens:
    """A Hugging Face tokenizer with its chat template, as `Prompt` and `Completion` need it."""

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._template_args = dict(template_args)
        self._pieces: dict[tuple[int, bool], str] = {}
        self._inner_pieces: dict[int, str] = {}
        self._control = _control(tokenizer)

    def encode(self, prompt: Prompt, limit: int, max_tokens: int) -> list[int]:
        """The prompt's token ids by the model's own chat template. What a message holds is text,
        be it the name of a control token.

        Raises:
            RecordError: it and ``max_tokens`` do not fit into the model's ``limit`` positions.
        """
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        named = self._control is not None and any(
            self._control.search(m.content) for m in prompt.messages
        )
        try:
            token_ids = self._as_text(messages) if named else self._templated(messages)
        except ValueError as error:
            if getattr(self._tokenizer, "chat_template", None) is None:
                raise UsageError(
                    "the model's tokenizer has no chat template; take the model's -Instruct form"
                ) from None
            raise RecordError(f"the chat template failed: {error}", Reason.BAD_PROMPT) from None
        if len(token_ids) + max_tokens > limit:
            raise RecordError(
                f"the prompt is {len(token_ids):,} tokens, and with max_tokens {max_tokens} passes "
                f"the model's {limit:,}; shorten the record or the prompt, or say with "
                "`local.too_long` where such records go",
                Reason.TOO_LONG,
            )
        return token_ids

    def _templated(self, messages: list[dict[str, str]], **how: Any) -> Any:
        settings = {"add_generation_prompt": True, "return_dict": False} | self._template_args | how
        return self._tokenizer.apply_chat_template(messages, **settings)

    def _as_text(self, messages: list[dict[str, str]]) -> list[int]:
        """The same where a message names control tokens: each name is cut in two behind its first
        character, and the parts become tokens by themselves."""
        assert self._control is not None
        said = "".join(message["content"] for message in messages)
        cut = next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in said)
        for message in messages:
            message["content"] = self._control.sub(rf"\g<0>{cut}", message["content"])
        parts = self._templated(messages, tokenize=False).split(cut)
        encode = self._tokenizer.encode
        return [token for part in parts for token in encode(part, add_special_tokens=False)]

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

    def alternatives(
        self,
        token_ids: Sequence[int],
        pieces: Sequence[str],
        top: Sequence[Iterable[tuple[int, float]]],
        ends: Collection[int],
    ) -> tuple[Alternatives, ...]:
        """Each token's alternatives, given as (id, natural logprob): their texts, best first.

        The token itself stands there with its own piece, and each of ``ends`` as the empty one.
        """

        def text(option: int, position: int) -> str:
            if option == token_ids[position]:
                return pieces[position]
            if option in ends:
                return ""
            return self._inner(option) if position else self._piece(option, True)

        return tuple(
            tuple(
                (text(option, position), logprob)
                for option, logprob in sorted(options, key=lambda pair: -pair[1])
                if logprob > -math.inf
            )
            for position, options in enumerate(top)
        )

    def _inner(self, token_id: int) -> str:
        """A token's text in the midst of others: alone, it may lose the space it begins with."""
        if token_id not in self._inner_pieces:
            before: list[int] = self._tokenizer.encode("a", add_special_tokens=False)[-1:]
            both = self._decode([*before, token_id], True)
            self._inner_pieces[token_id] = both[len(self._decode(before, True)) :]
        return self._inner_pieces[token_id]

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


def _control(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds the first character of each control token's name: of the special ones, and those that
    the chat template itself writes. Others, such as runs of spaces, are how text is written."""
    template = str(getattr(tokenizer, "chat_template", None) or "")
    names = [
        token.content
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
        if len(token.content.strip()) > 1 and (token.special or token.content in template)
    ]
    if not names:
        return None
    return re.compile("|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in names))


def remembering(tokenizer: Any) -> Any:
    """The same tokenizer, which decodes a single token but once.

    vLLM decodes each alternative of each token by itself, a twelfth of its time; there are at most
    as many as the vocabulary has.
    """
    plain, known = tokenizer.decode, dict[int, str]()

    def decode(token_ids: Any, *given: Any, **named: Any) -> Any:
        if given or named or not isinstance(token_ids, list) or len(token_ids) != 1:
            return plain(token_ids, *given, **named)
        text = known.get(token_ids[0])
        if text is None:
            text = known[token_ids[0]] = plain(token_ids)
        return text

    tokenizer.decode = decode
    return tokenizer


def split_reasoning(completion: Completion, parser: Any) -> Completion:
    """The answer without the model's reasoning, by one of vLLM's parsers.

    The answer is a suffix of what was generated, so its tokens, logprobs and alternatives are a
    suffix too. A completion that ended inside the reasoning has no answer: empty text, reason
    ``length``.
    """
    # The parsers' `request` is the server's request object; none of the families reads it offline.
    reasoning, answer = parser.extract_reasoning(completion.text, None)
    samples = tuple(parser.extract_reasoning(text, None)[1] or "" for text in completion.samples)
    bare = replace(
        completion,
        text=answer or "",
        tokens=(),
        logprobs=None,
        reasoning=reasoning,
        top=(),
        samples=samples,
    )
    start = completion.text.rfind(answer) if answer else -1
    if start < 0:
        return bare
    first, at = 0, 0
    while first < len(completion.tokens) and at + len(completion.tokens[first]) <= start:
        at += len(completion.tokens[first])
        first += 1
    tokens, top = list(completion.tokens[first:]), list(completion.top[first:])
    if tokens:
        begun, tokens[0] = tokens[0][: start - at], tokens[0][start - at :]
        top[:1] = [tuple((text.removeprefix(begun), p) for text, p in each) for each in top[:1]]
    _trim(tokens, top, len("".join(tokens)) - len(answer))
    logprobs = completion.logprobs[first:] if completion.logprobs is not None else None
    return replace(bare, tokens=tuple(tokens), logprobs=logprobs, top=tuple(top))


def _trim(tokens: list[str], top: list[Alternatives], extra: int) -> None:
    """Takes the last ``extra`` characters off the tokens (space, and the end token's name)."""
    while extra > 0 and tokens:
        last = len(tokens) - 1 - next(i for i, t in enumerate(reversed(tokens)) if t)
        whole = tokens[last]
        tokens[last] = whole[: max(0, len(whole) - extra)]
        extra -= len(whole) - len(tokens[last])
        if top:
            same = tokens[last]
            top[last] = tuple((same if text == whole else text, p) for text, p in top[last])
