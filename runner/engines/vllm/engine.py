"""vLLM: one thread steps the engine, coroutines await their own completion.

A lazily fed ``add_request``/``step`` loop hands out each answer as it completes at no loss
against ``LLM.generate`` over all prompts at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.engines.tokens import Tokens, remembering, split_reasoning
from runner.engines.transformers.decoding import first_line
from runner.engines.vllm import insides
from runner.engines.vllm.holding import client_errors, refused, sampling_params
from runner.engines.vllm.memory import asks_for, fitting, thrifty
from runner.engines.vllm.setup import arguments, check_arguments, classes, environment, offline
from runner.errors import EngineError, RecordError, UsageError
from runner.job import Local
from runner.types import Alternatives, Completion, Constraint, Prompt, Reason, Sampling, Usage

NOTHING = Constraint()


@dataclass(slots=True)
class _Request:
    token_ids: list[int]
    constraint: Constraint
    params: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class _Renewal:
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class VllmEngine:
    """Loads the model at once; raises `EngineError` or `UsageError` with a sentence if it cannot.

    Args:
        model: a folder or a hub id.
        local: the job's ``local`` part; ``engine_args`` go to vLLM's ``EngineArgs`` unchanged.
        thrift: how often memory was short so far; each time, less of it is asked for.
        held_to: what the job's answers are held to. vLLM has one grammar backend for all that its
            process answers, and it is the one for these.
    """

    def __init__(
        self, model: str, local: Local, thrift: int = 0, *, held_to: Constraint = NOTHING
    ) -> None:
        own_cache = environment(local)
        EngineArgs, LLMEngine = classes()
        check_arguments(local, EngineArgs)
        self._name = local.model
        self._parser_name = local.reasoning_parser
        self._parser_args = {"chat_template_kwargs": local.chat_template_args}
        try:
            wanted = arguments(local)
            if own_cache:
                wanted = fitting(wanted, model)
            given = EngineArgs(model=model, **thrifty(wanted, thrift))
            self._engine = LLMEngine.from_engine_args(given, usage_context=offline())
            if given.worker_extension_cls == insides.SEEDED_DRAWS:
                self._engine.collective_rpc("fix_seeded_draws")
            config = self._engine.vllm_config
            tokenizer = remembering(self._engine.get_tokenizer())
        except Exception as error:
            raise EngineError(f"vLLM cannot load {model}: {first_line(error)}") from error
        self.window = local.window or 2 * config.scheduler_config.max_num_seqs
        self.asks_for = asks_for(given)
        self._config, self._held_to = config, held_to
        self._limit: int = config.model_config.max_model_len
        self._tokenizer = tokenizer
        self._tokens = Tokens(tokenizer, local.chat_template_args)
        self._parser = self._reasoning_parser(tokenizer)
        self._ends = _end_tokens(tokenizer, config.model_config)
        self._params: list[tuple[Constraint, Sampling, Any]] = []
        self._choose_backend()
        self._requests: queue.SimpleQueue[_Request | _Renewal | None] = queue.SimpleQueue()
        self._death: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._thread.start()

    def _choose_backend(self) -> None:
        params = self._sampling_params(self._held_to, Sampling())
        if params.structured_outputs is None:
            return
        try:
            insides.verify(params, self._config, self._tokenizer)
        except client_errors() as error:
            insides.shut_down(self._engine)
            raise refused(error, self._held_to, shared=True) from None
        insides.use_backend_of(params, self._config)

    def _reasoning_parser(self, tokenizer: Any) -> Any:
        if self._parser_name is None:
            return None
        from vllm.reasoning import ReasoningParserManager

        try:
            parser = ReasoningParserManager.get_reasoning_parser(self._parser_name)
            return parser(tokenizer, **self._parser_args)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"local.reasoning_parser: {first_line(error)}") from None

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        token_ids = self._tokens.encode(prompt, self._limit, sampling.max_tokens)
        if self._death is not None:
            raise EngineError(self._death)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        params = self._sampling_params(prompt.constraint, sampling)
        self._requests.put(_Request(token_ids, prompt.constraint, params, future, loop))
        if self._closed:  # perhaps too late for the thread's last look at the queue
            raise EngineError(self._death or "vLLM was closed")
        return self._completion(await future, sampling)

    async def renew(self) -> None:
        """Drops what is in flight and what is cached of prompts: as if it had just been loaded."""
        loop = asyncio.get_running_loop()
        renewal = _Renewal(loop.create_future(), loop)
        self._requests.put(renewal)
        await renewal.future

    async def aclose(self) -> None:
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _sampling_params(self, constraint: Constraint, sampling: Sampling) -> Any:
        for known in self._params:
            if known[:2] == (constraint, sampling):
                return known[2]
        params = sampling_params(
            constraint,
            sampling,
            self._config.structured_outputs_config,
            keep_special=self._parser is not None,
        )
        # A job has few kinds of requests: its prompt, and what else it asks about the answer.
        self._params = [(constraint, sampling, params), *self._params[:7]]
        return params

    def _completion(self, output: Any, sampling: Sampling) -> Completion:
        made = output.outputs[0]
        if any(each.finish_reason == "error" for each in output.outputs):
            raise RecordError(
                "vLLM gave this record up; most often its grammar backend cannot take the "
                "`answer.schema` (run with VLLM_LOGGING_LEVEL=INFO to see why)",
                Reason.BAD_PROMPT,
            )
        flat = made.logprobs
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
        pieces = self._tokens.pieces(
            made.token_ids, made.text, keep_special=self._parser is not None
        )
        texts = [each.text for each in output.outputs]
        completion = Completion(
            text=made.text,
            model=self._name,
            finish_reason=made.finish_reason or "abort",
            tokens=pieces,
            logprobs=logprobs,
            usage=Usage(
                len(output.prompt_token_ids or ()), sum(len(o.token_ids) for o in output.outputs)
            ),
            top=self._top(made, pieces) if sampling.top_logprobs else (),
            samples=tuple(texts * (sampling.n // len(texts))) if sampling.n > 1 else (),
        )
        return split_reasoning(completion, self._parser) if self._parser else completion

    def _top(self, made: Any, pieces: Sequence[str]) -> tuple[Alternatives, ...]:
        flat, ends = made.logprobs, self._ends
        if made.finish_reason == "stop" and not isinstance(made.stop_reason, str):
            ends = ends | {made.token_ids[-1]}
        # The first of each stretch is the token that was taken, once more.
        top = [
            list(zip(flat.token_ids[a + 1 : b], flat.logprobs[a + 1 : b], strict=True))
            for a, b in zip(flat.start_indices, flat.end_indices, strict=True)
        ]
        return self._tokens.alternatives(made.token_ids, pieces, top, ends)

    def _serve(self) -> None:
        """The engine's thread: keeps the batch fed, never waits while there is work in it."""
        names = map(str, itertools.count())
        flying: dict[str, _Request] = {}
        try:
            while True:
                for request in self._take(block=not flying):
                    if request is None:
                        return
                    if isinstance(request, _Renewal):
                        self._renew(request, flying)
                        continue
                    name = next(names)
                    flying[name] = request
                    self._add(name, request, flying)
                if flying:
                    _hand_out(flying, [o for o in self._engine.step() if o.finished])
        except Exception as error:
            self._death = f"vLLM stopped: {first_line(error)}"
            _fail(list(flying.values()), EngineError(self._death))
        finally:
            self._closed = True
            left = [r for r in self._take(block=False) if isinstance(r, _Request)]
            _fail(left, EngineError("vLLM was closed"))
            insides.shut_down(self._engine)

    def _renew(self, renewal: _Renewal, flying: dict[str, _Request]) -> None:
        self._engine.abort_request(list(flying))
        flying.clear()
        self._engine.reset_prefix_cache()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            renewal.loop.call_soon_threadsafe(renewal.future.set_result, None)

    def _take(self, *, block: bool) -> list[_Request | _Renewal | None]:
        taken: list[_Request | _Renewal | None] = []
        try:
            taken.append(self._requests.get(block=block))
            while True:
                taken.append(self._requests.get_nowait())
        except queue.Empty:
            return taken

    def _add(self, name: str, request: _Request, flying: dict[str, _Request]) -> None:
        from vllm.inputs import tokens_input

        prompt: Any = tokens_input(request.token_ids)
        if not self._may(request):
            del flying[name]
            return
        try:
            if self._parser is not None:
                prompt = insides.with_parser_arguments(
                    self._engine, name, prompt, request.params, self._parser_args
                )
            self._engine.add_request(name, prompt, request.params)
            insides.share(request.params)
        except client_errors() as error:
            del flying[name]
            problem = f"vLLM refuses the prompt: {first_line(error)}"
            _fail([request], RecordError(problem, Reason.BAD_PROMPT))

    def _may(self, request: _Request) -> bool:
        """Whether vLLM takes what all requests of its kind share; else it has failed."""
        if insides.is_shared(request.params):
            return True
        try:
            insides.verify(request.params, self._config, self._tokenizer)
        except client_errors() as error:
            shared = request.constraint == self._held_to
            _fail([request], refused(error, request.constraint, shared=shared))
            return False
        return True


def _hand_out(flying: dict[str, _Request], outputs: Sequence[Any]) -> None:
    done = [(flying.pop(output.request_id), output) for output in outputs]

    def resolve() -> None:
        for request, output in done:
            if not request.future.done():
                request.future.set_result(output)

    if done:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            done[0][0].loop.call_soon_threadsafe(resolve)


def _fail(requests: Sequence[_Request], error: Exception) -> None:
    def resolve(request: _Request) -> None:
        if not request.future.done():
            request.future.set_exception(error)

    for request in requests:
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits any more
            request.loop.call_soon_threadsafe(resolve, request)


def _end_tokens(tokenizer: Any, model_config: Any) -> frozenset[int]:
    """Every token that ends an answer: the tokenizer's, and those of the checkpoint's own
    generation config, from which vLLM takes them even where it takes nothing else."""
    given = model_config.try_get_generation_config().get("eos_token_id")
    ends = {given} if isinstance(given, int) else set(given or ())
    return frozenset(ends | {tokenizer.eos_token_id} - {None})
