"""Hugging Face transformers in this process, for what vLLM cannot run.

One thread forms left-padded batches of whatever waits; coroutines await their own completion. A
batch lasts until its longest answer ends, and padding moves a logprob's last bits from one batch
to another: where vLLM runs a model, prefer it.

Constraints are xgrammar's, over the grammars that vLLM builds (``vllm/v1/structured_output``), so
that both engines allow the same texts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.engines.grammars import choice_grammar, json_options, without_place
from runner.engines.tokens import Tokens, split_reasoning
from runner.engines.transformers.checkpoint import end_tokens, load, packages
from runner.engines.transformers.decoding import CLOSED, Chooser, Row, first_line, warpers
from runner.errors import EngineError, MissingExtra, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Prompt, Sampling, Usage


@dataclass(slots=True, eq=False)
class _Request:
    token_ids: list[int]
    constraint: Constraint
    sampling: Sampling
    future: asyncio.Future[Row]
    loop: asyncio.AbstractEventLoop

    def alike(self, other: _Request) -> bool:
        """Whether both can be made in one batch; each row has its own seed."""
        mine, its = (replace(r.sampling, seed=None) for r in (self, other))
        return (self.constraint, mine) == (other.constraint, its)


class TransformersEngine:
    """Loads the model at once; raises `EngineError` or `UsageError` with a sentence if it cannot.

    Args:
        model: a folder or a hub id.
        local: the job's ``local`` part; ``engine_args`` go to ``from_pretrained`` unchanged, but
            for ``batch_size`` (32): how many answers are made at once.
        thrift: how often memory was short so far; each time, the batch is half as large.
    """

    def __init__(self, model: str, local: Local, thrift: int = 0) -> None:
        torch, library, self._xgrammar = packages()
        if local.cpu_threads:
            torch.set_num_threads(local.cpu_threads)
        arguments = dict(local.engine_args)
        self._batch_size = max(1, _batch_size(arguments.pop("batch_size", 32)) >> thrift)
        self.asks_for = f"{self._batch_size} answers at once"
        self.window = local.window or 2 * self._batch_size
        self._name = local.model
        self._library = library
        self._model, self._tokenizer = load(library, model, arguments)
        text = self._model.config.get_text_config()
        limit = self._tokenizer.model_max_length
        self._limit: int = getattr(text, "max_position_embeddings", None) or limit
        self._ends = end_tokens(self._tokenizer, self._model.generation_config)
        # A checkpoint's own top-k would silently drop labels.
        self._model.generation_config = library.GenerationConfig()
        self._parser = _reasoning_parser(local, self._tokenizer)
        self._tokens = Tokens(self._tokenizer, local.chat_template_args)
        info = self._xgrammar.TokenizerInfo.from_huggingface(
            self._tokenizer, vocab_size=text.vocab_size
        )
        self._compiler = self._xgrammar.GrammarCompiler(info)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._death: str | None = None
        self._thread = threading.Thread(target=self._serve, name="transformers", daemon=True)
        self._thread.start()

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        token_ids = self._tokens.encode(prompt, self._limit, sampling.max_tokens)
        loop = asyncio.get_running_loop()
        made = []
        for one in _draws(sampling):
            request = _Request(token_ids, prompt.constraint, one, loop.create_future(), loop)
            self._requests.put(request)
            made.append(request.future)
        # Looked at after the put: either the dying thread still finds the request, or this does.
        if self._death is not None:
            raise EngineError(self._death)
        first, *others = [self._completion(row) for row in await asyncio.gather(*made)]
        if sampling.n == 1:
            return first
        texts = [first.text, *(other.text for other in others)]
        usage = Usage(
            first.usage.input_tokens,
            first.usage.output_tokens + sum(other.usage.output_tokens for other in others),
        )
        samples = tuple(texts * (sampling.n // len(texts)))
        return replace(first, usage=usage, samples=samples)

    async def aclose(self) -> None:
        self._closing.set()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _completion(self, row: Row) -> Completion:
        keep_special = self._parser is not None
        ids = row.ids[:-1] if row.ended else row.ids
        text = self._tokenizer.decode(
            ids, skip_special_tokens=not keep_special, clean_up_tokenization_spaces=False
        )
        pieces = self._tokens.pieces(ids, text, keep_special=keep_special)
        completion = Completion(
            # A character cut in half by max_tokens is in no piece.
            text="".join(pieces),
            model=self._name,
            finish_reason="stop" if row.ended else "length",
            tokens=(*pieces, "") if row.ended else pieces,
            logprobs=tuple(row.logprobs),
            usage=Usage(len(row.prompt_ids), len(row.ids)),
            top=self._tokens.alternatives(row.ids, (*pieces, ""), row.top, self._ends),
        )
        return split_reasoning(completion, self._parser) if self._parser else completion

    def _serve(self) -> None:
        """The model's thread: one batch after the other, of whatever waits."""
        waiting: list[_Request] = []
        batch: list[_Request] = []
        try:
            while self._gather(waiting):
                batch = self._next_batch(waiting)
                if batch:
                    self._answer(batch)
            self._death = CLOSED
        except Exception as error:
            self._death = _death(error)
        finally:
            # Another engine may be loaded after this one; the memory is free by then.
            self._model = None
            self._gather(waiting, block=False)
            _fail([*batch, *waiting], EngineError(self._death or CLOSED))

    def _gather(self, waiting: list[_Request], *, block: bool = True) -> bool:
        """Moves what was asked into ``waiting``; false once the engine is to close."""
        with contextlib.suppress(queue.Empty):
            request = self._requests.get(block=block and not waiting)
            while True:
                if request is not None:
                    waiting.append(request)
                request = self._requests.get_nowait()
        return not self._closing.is_set()

    def _next_batch(self, waiting: list[_Request]) -> list[_Request]:
        """The request that waits longest and those that can share its batch."""
        waiting[:] = [request for request in waiting if not request.future.done()]
        alike = [r for r in waiting if r.alike(waiting[0])][: self._batch_size]
        waiting[:] = [request for request in waiting if request not in alike]
        return alike

    def _answer(self, batch: list[_Request]) -> None:
        try:
            rows = self._generate(batch)
        except UsageError as error:
            _fail(batch, error)
        else:
            _hand_out(batch, rows)

    def _generate(self, batch: list[_Request]) -> list[Row]:
        import torch

        sampling, device = batch[0].sampling, self._model.device
        pad: int = self._tokenizer.pad_token_id or 0
        width = max(len(request.token_ids) for request in batch)
        gaps = [width - len(request.token_ids) for request in batch]
        settings = self._library.GenerationConfig(
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._ends,
            pad_token_id=pad,
        )
        chooser = Chooser(
            rows=self._new_rows(batch, device),
            sampling=sampling,
            warpers=warpers(self._library, sampling),
            ends=self._ends,
            parser=self._parser,
            closing=self._closing,
        )
        padded = [[pad] * gap + r.token_ids for gap, r in zip(gaps, batch, strict=True)]
        seen = [[0] * gap + [1] * (width - gap) for gap in gaps]
        with torch.inference_mode():
            self._model.generate(
                torch.tensor(padded, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=settings,
                logits_processor=self._library.LogitsProcessorList([chooser]),
            )
        return chooser.rows

    def _new_rows(self, batch: list[_Request], device: Any) -> list[Row]:
        import torch

        grammar = self._grammar(batch[0].constraint)
        rows = []
        for request in batch:
            matcher = generator = None
            if grammar is not None:
                matcher = self._xgrammar.GrammarMatcher(grammar, override_stop_tokens=self._ends)
            if request.sampling.temperature > 0 and request.sampling.seed is not None:
                generator = torch.Generator(device).manual_seed(request.sampling.seed)
            thinks = self._parser and not self._parser.is_reasoning_end(request.token_ids)
            rows.append(Row(request.token_ids, matcher, not thinks, generator))
        return rows

    def _grammar(self, constraint: Constraint) -> Any:
        try:
            if constraint.schema is not None:
                schema = json.dumps(constraint.schema)
                return self._compiler.compile_json_schema(schema, **json_options())
            if constraint.labels:
                return self._compiler.compile_grammar(choice_grammar(constraint.labels))
        except (RuntimeError, TypeError, ValueError) as error:
            said = without_place(first_line(error))
            raise UsageError(f"answer: xgrammar cannot hold a model to this: {said}") from None
        return None


def _draws(sampling: Sampling) -> list[Sampling]:
    """One request for each answer that is asked for; without temperature all would be the same."""
    count = sampling.n if sampling.temperature > 0 else 1
    seeds = [sampling.seed if sampling.seed is None else sampling.seed + i for i in range(count)]
    return [replace(sampling, seed=seed, n=1) for seed in seeds]


def _batch_size(given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise UsageError(f"local.engine_args.batch_size: {given!r} is not a number from 1 up")
    return given


def _reasoning_parser(local: Local, tokenizer: Any) -> Any:
    if (name := local.reasoning_parser) is None:
        return None
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm.reasoning import ReasoningParserManager
    except ImportError as error:
        what = f"vLLM ({error}), whose parsers `reasoning_parser: {name}` names,"
        raise MissingExtra(what, "cpu", "gpu") from None
    try:
        parser = ReasoningParserManager.get_reasoning_parser(name)
        return parser(tokenizer, chat_template_kwargs=local.chat_template_args)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"local.reasoning_parser: {first_line(error)}") from None


def _death(error: Exception) -> str:
    if isinstance(error, EngineError):
        return str(error)
    fix = ""
    if type(error).__name__ == "OutOfMemoryError":
        fix = "; a smaller local.engine_args.batch_size needs less memory"
    return f"transformers stopped: {first_line(error)}{fix}"


def _hand_out(batch: Sequence[_Request], rows: Sequence[Row]) -> None:
    for request, row in zip(batch, rows, strict=True):
        _tell(request, request.future.set_result, row)


def _fail(requests: Iterable[_Request], error: Exception) -> None:
    for request in requests:
        _tell(request, request.future.set_exception, error)


def _tell(request: _Request, tell: Callable[[Any], None], what: object) -> None:
    def resolve() -> None:
        if not request.future.done():
            tell(what)

    # The loop is closed where the run was broken off; nobody waits then.
    with contextlib.suppress(RuntimeError):
        request.loop.call_soon_threadsafe(resolve)
