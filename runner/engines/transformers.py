"""Hugging Face transformers in this process, for what vLLM cannot run.

One thread forms left-padded batches from whatever waits; coroutines await their own completion.
A batch lasts until its slowest answer ends, and padding may move a logprob's last bits from one
batch to another: where vLLM runs a model, prefer it.

Constraints are vLLM's, xgrammar over the same grammars (``vllm/v1/structured_output``), so that
both engines allow the same texts. The masked distribution is the one chosen from and reported.
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

_WARPERS = ("min_p", "repetition_penalty", "top_k", "top_p")
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
# What `from_pretrained` takes out of its keyword arguments without naming them in its signature.
_LOADING = """adapter_kwargs allow_all_kernels attn_implementation code_revision device_map
    distributed_config dtype experts_implementation gguf_file kernel_config key_mapping max_memory
    offload_buffers offload_folder proxies quantization_config subfolder torch_dtype tp_plan tp_size
    trust_remote_code use_kernels variant""".split()


@dataclass(slots=True, eq=False)
class _Request:
    token_ids: list[int]
    constraint: Constraint
    sampling: Sampling
    future: asyncio.Future[_Row]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True, eq=False)
class _Row:
    """One answer in the making. ``matcher`` acts once ``answering``: after the reasoning."""

    prompt_ids: list[int]
    matcher: Any
    answering: bool
    noise: Any = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


class TransformersEngine:
    """Loads the model at once; raises `EngineError` or `UsageError` with a sentence if it cannot.

    Args:
        model: a folder or a hub id.
        local: the job's ``local`` part; ``engine_args`` go to ``from_pretrained`` unchanged, but
            for ``batch_size`` (32): how many answers are made at once.
    """

    def __init__(self, model: str, local: Local) -> None:
        torch, self._transformers, self._xgrammar = _packages()
        if local.cpu_threads:
            torch.set_num_threads(local.cpu_threads)
        arguments = dict(local.engine_args)
        self._batch_size = _batch_size(arguments.pop("batch_size", 32))
        self.window = local.window or 2 * self._batch_size
        self._name = local.model
        tokenizer = self._load(model, arguments)
        self._parser = _reasoning_parser(local.reasoning_parser, tokenizer)
        self._tokens = Tokens(tokenizer, local.chat_template_args)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._death: str | None = None
        self._thread = threading.Thread(target=self._serve, name="transformers", daemon=True)
        self._thread.start()

    def _load(self, model: str, arguments: dict[str, Any]) -> Any:
        """Sets the model and all that follows from it; returns its tokenizer."""
        hub = {name: arguments[name] for name in _HUB if name in arguments}
        library = self._transformers
        try:
            config = library.AutoConfig.from_pretrained(model, **hub)
            _check_arguments(arguments, library, config)
            tokenizer = library.AutoTokenizer.from_pretrained(model, **hub)
            loaded = library.AutoModelForCausalLM.from_pretrained(
                model, **{"device_map": "auto", **arguments}
            )
        except LocalFirstError:
            raise
        except Exception as error:
            problem = f"transformers cannot load {model}: {_first_line(error)}"
            raise EngineError(problem) from error
        text = loaded.config.get_text_config()
        self._limit: int = getattr(text, "max_position_embeddings", tokenizer.model_max_length)
        self._ends = _ends(tokenizer, loaded.generation_config)
        self._pad: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        # A checkpoint's own top-k would silently drop labels.
        loaded.generation_config = library.GenerationConfig()
        self._model = loaded
        self._vocabulary: int = text.vocab_size
        info = self._xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=text.vocab_size)
        self._compiler = self._xgrammar.GrammarCompiler(info)
        return tokenizer

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        token_ids = self._tokens.encode(prompt, self._limit, sampling.max_tokens)
        _check_sampling(sampling)
        loop = asyncio.get_running_loop()
        request = _Request(token_ids, prompt.constraint, sampling, loop.create_future(), loop)
        self._requests.put(request)
        # Looked at after the put: either the dying thread finds the request, or this line does.
        if self._death is not None and not request.future.done():
            raise EngineError(self._death)
        return self._completion(await request.future)

    async def aclose(self) -> None:
        self._closing.set()
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _completion(self, row: _Row) -> Completion:
        keep_special = self._parser is not None
        pieces = self._tokens.pieces(row.ids, "", keep_special=keep_special)
        if row.ended:
            pieces = (*pieces[:-1], "")
        completion = Completion(
            text="".join(pieces),
            model=self._name,
            finish_reason="stop" if row.ended else "length",
            tokens=pieces,
            logprobs=tuple(row.logprobs),
            usage=Usage(len(row.prompt_ids), len(row.ids)),
        )
        return split_reasoning(completion, self._parser) if self._parser else completion

    def _serve(self) -> None:
        """The model's thread: a batch after the other, of whatever waits."""
        waiting: list[_Request] = []
        batch: list[_Request] = []
        try:
            while self._gather(waiting):
                batch = self._next_batch(waiting)
                self._answer(batch)
            self._death = "transformers was closed"
        except Exception as error:
            self._death = _death(error)
        finally:
            # A run may load another engine after this one: the memory must be free by then.
            self._model = None
            self._gather(waiting, block=False)
            _fail([*batch, *waiting], EngineError(self._death or "transformers stopped"))

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
        """The first that waits and those that may share its batch; given-up ones fall out."""
        waiting[:] = [request for request in waiting if not request.future.done()]
        first = waiting[:1]
        alike = [r for r in waiting if all(_alike(r, f) for f in first)][: self._batch_size]
        waiting[:] = [request for request in waiting if request not in alike]
        return alike

    def _answer(self, batch: list[_Request]) -> None:
        if not batch:
            return
        try:
            rows = self._generate(batch)
        except LocalFirstError as error:
            _fail(batch, error)
        else:
            _hand_out(batch, rows)

    def _generate(self, batch: list[_Request]) -> list[_Row]:
        import torch

        sampling = batch[0].sampling
        rows = self._rows(batch)
        width = max(len(row.prompt_ids) for row in rows)
        padded = [[self._pad] * (width - len(r.prompt_ids)) + r.prompt_ids for r in rows]
        seen = [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rows]
        device = self._model.device
        with torch.inference_mode():
            self._model.generate(
                torch.tensor(padded, device=device),
                attention_mask=torch.tensor(seen, device=device),
                generation_config=self._transformers.GenerationConfig(
                    do_sample=False,
                    max_new_tokens=sampling.max_tokens,
                    eos_token_id=self._ends,
                    pad_token_id=self._pad,
                ),
                logits_processor=self._transformers.LogitsProcessorList(
                    [_Chooser(self, rows, sampling)]
                ),
            )
        return rows

    def _rows(self, batch: list[_Request]) -> list[_Row]:
        grammar = self._grammar(batch[0].constraint)
        rows = []
        for request in batch:
            matcher = None
            if grammar is not None:
                matcher = self._xgrammar.GrammarMatcher(grammar, override_stop_tokens=self._ends)
            thinks = self._parser and not self._parser.is_reasoning_end(request.token_ids)
            rows.append(_Row(request.token_ids, matcher, answering=not thinks))
        return rows

    def _grammar(self, constraint: Constraint) -> Any:
        try:
            if constraint.schema is not None:
                return self._compiler.compile_json_schema(json.dumps(constraint.schema))
            if constraint.labels:
                return self._compiler.compile_grammar(_choice(constraint.labels))
        except Exception as error:
            problem = f"answer: xgrammar cannot hold a model to it: {_first_line(error)}"
            raise UsageError(problem) from None
        return None

    # What the chooser needs, one step at a time.

    def mask(self, scores: Any, rows: Sequence[_Row]) -> None:
        """What the rows' grammars do not allow next becomes impossible."""
        held = [i for i, r in enumerate(rows) if r.matcher and r.answering and not r.ended]
        if not held:
            return
        if self._closing.is_set():
            raise EngineError("transformers was closed")
        bits = self._xgrammar.allocate_token_bitmask(len(rows), self._vocabulary)
        for index in held:
            rows[index].matcher.fill_next_token_bitmask(bits, index)
        self._xgrammar.apply_token_bitmask_inplace(scores, bits.to(scores.device))
