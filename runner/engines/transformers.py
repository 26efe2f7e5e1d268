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
import difflib
import inspect
import json
import os
import queue
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.engines.tokens import Tokens, split_reasoning
from runner.errors import EngineError, LocalFirstError, MissingExtra, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Prompt, Sampling, Usage

_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
# What `from_pretrained` takes out of its keyword arguments without naming it in its signature.
_LOADING = """adapter_kwargs allow_all_kernels attn_implementation code_revision device_map
    distributed_config dtype experts_implementation gguf_file kernel_config key_mapping max_memory
    offload_buffers offload_folder proxies quantization_config subfolder torch_dtype tp_plan tp_size
    trust_remote_code use_kernels variant""".split()
_EXTRA = ("min_p", "repetition_penalty", "top_k", "top_p")
_CLOSED = "transformers was closed"


@dataclass(slots=True, eq=False)
class _Row:
    """One answer in the making. The grammar holds it once it is ``answering``, not thinking."""

    prompt_ids: list[int]
    matcher: Any
    answering: bool
    generator: Any
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    token_ids: list[int]
    constraint: Constraint
    sampling: Sampling
    future: asyncio.Future[_Row]
    loop: asyncio.AbstractEventLoop


class TransformersEngine:
    """Loads the model at once; raises `EngineError` or `UsageError` with a sentence if it cannot.

    Args:
        model: a folder or a hub id.
        local: the job's ``local`` part; ``engine_args`` go to ``from_pretrained`` unchanged, but
            for ``batch_size`` (32): how many answers are made at once.
    """

    def __init__(self, model: str, local: Local) -> None:
        torch, library, self._xgrammar = _packages()
        if local.cpu_threads:
            torch.set_num_threads(local.cpu_threads)
        arguments = dict(local.engine_args)
        self._batch_size = _batch_size(arguments.pop("batch_size", 32))
        self.window = local.window or 2 * self._batch_size
        self._name = local.model
        self._library = library
        self._model, self._tokenizer = _load(library, model, arguments)
        text = self._model.config.get_text_config()
        limit = self._tokenizer.model_max_length
        self._limit: int = getattr(text, "max_position_embeddings", None) or limit
        self._ends = _ends(self._tokenizer, self._model.generation_config)
        # A checkpoint's own top-k would silently drop labels.
        self._model.generation_config = library.GenerationConfig()
        self._parser = _reasoning_parser(local.reasoning_parser, self._tokenizer)
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
        request = _Request(token_ids, prompt.constraint, sampling, loop.create_future(), loop)
        self._requests.put(request)
        # Looked at after the put: either the dying thread still finds the request, or this does.
        if self._death is not None:
            raise EngineError(self._death)
        return self._completion(await request.future)

    async def aclose(self) -> None:
        self._closing.set()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _completion(self, row: _Row) -> Completion:
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
            self._death = _CLOSED
        except Exception as error:
            self._death = _death(error)
        finally:
            # Another engine may be loaded after this one; the memory is free by then.
            self._model = None
            self._gather(waiting, block=False)
            _fail([*batch, *waiting], EngineError(self._death or _CLOSED))

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
        alike = [
            request
            for request in waiting
            if (request.constraint, request.sampling)
            == (waiting[0].constraint, waiting[0].sampling)
        ][: self._batch_size]
        waiting[:] = [request for request in waiting if request not in alike]
        return alike

    def _answer(self, batch: list[_Request]) -> None:
        try:
            rows = self._generate(batch)
        except UsageError as error:
            _fail(batch, error)
        else:
            _hand_out(batch, rows)

    def _generate(self, batch: list[_Request]) -> list[_Row]:
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
        chooser = _Chooser(
            rows=self._rows(batch, device),
            temperature=sampling.temperature,
            warpers=_warpers(self._library, sampling),
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

    def _rows(self, batch: list[_Request], device: Any) -> list[_Row]:
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
            rows.append(_Row(request.token_ids, matcher, not thinks, generator))
        return rows

    def _grammar(self, constraint: Constraint) -> Any:
        try:
            if constraint.schema is not None:
                return self._compiler.compile_json_schema(json.dumps(constraint.schema))
            if constraint.labels:
                return self._compiler.compile_grammar(_choice(constraint.labels))
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"answer: xgrammar cannot hold a model to this: {_first_line(error)}"
            ) from None
        return None


@dataclass(slots=True)
class _Chooser:
    """The only logits processor, so that none comes after it: masks, warps, chooses each row's
    next token and leaves ``generate`` no other. Of all the scores it keeps the chosen tokens'."""

    rows: list[_Row]
    temperature: float
    warpers: Sequence[Any]
    ends: list[int]
    parser: Any
    closing: threading.Event

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.closing.is_set():
            raise EngineError(_CLOSED)
        self._mask(scores)
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        logprobs = scores.log_softmax(dim=-1)
        chosen = self._choose(logprobs)
        picked = logprobs.gather(1, chosen[:, None])[:, 0]
        for row, token, logprob in zip(self.rows, chosen.tolist(), picked.tolist(), strict=True):
            if not row.ended:
                self._write_down(row, token, logprob)
        return scores.fill_(float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def _mask(self, scores: Any) -> None:
        import xgrammar

        held = [i for i, r in enumerate(self.rows) if r.matcher and r.answering and not r.ended]
        if held:
            bits = xgrammar.allocate_token_bitmask(len(self.rows), scores.shape[-1])
            for index in held:
                self.rows[index].matcher.fill_next_token_bitmask(bits, index)
            xgrammar.apply_token_bitmask_inplace(scores, bits.to(scores.device))

    def _choose(self, logprobs: Any) -> Any:
        if self.temperature == 0:
            return logprobs.argmax(dim=-1)
        # argmax(p / Exp(1)) is a draw from p; each row's own noise keeps it free of its batch.
        noise = logprobs.new_empty(logprobs.shape)
        for index, row in enumerate(self.rows):
            noise[index].exponential_(generator=row.generator)
        return (logprobs.exp() / noise).argmax(dim=-1)

    def _write_down(self, row: _Row, token: int, logprob: float) -> None:
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in self.ends:
            row.ended = True
        elif not row.answering:
            so_far = row.prompt_ids + row.ids
            row.answering = self.parser.is_reasoning_end_streaming(so_far, [token])
        elif row.matcher:
            row.matcher.accept_token(token)


def _warpers(library: Any, sampling: Sampling) -> list[Any]:
    """In vLLM's order: penalty, temperature, then what cuts the tail."""
    extra = dict(sampling.extra)
    for name in extra:
        if name not in _EXTRA:
            raise UsageError(
                f"local.sampling: the transformers engine has no `{name}`{_near(name, _EXTRA)}"
            )
    wanted: list[tuple[Any, float]] = []
    if (penalty := extra.get("repetition_penalty", 1.0)) != 1.0:
        wanted.append((library.RepetitionPenaltyLogitsProcessor, penalty))
    if sampling.temperature > 0:
        wanted.append((library.TemperatureLogitsWarper, float(sampling.temperature)))
        if (min_p := extra.get("min_p", 0.0)) > 0:
            wanted.append((library.MinPLogitsWarper, min_p))
        if (top_k := extra.get("top_k", 0)) > 0:
            wanted.append((library.TopKLogitsWarper, top_k))
        if (top_p := extra.get("top_p", 1.0)) < 1:
            wanted.append((library.TopPLogitsWarper, top_p))
    try:
        return [warper(value) for warper, value in wanted]
    except (TypeError, ValueError) as error:
        raise UsageError(f"local.sampling: {_first_line(error)}") from None


def _choice(labels: Sequence[str]) -> str:
    """One of the labels, in xgrammar's EBNF (as vLLM's ``choice_as_grammar``)."""
    return "root ::= " + " | ".join(json.dumps(label, ensure_ascii=False) for label in labels)
