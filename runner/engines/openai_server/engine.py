"""A server of one's own that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama.

The server decides what its logprobs mean. vLLM's are taken before temperature and penalties (0.32:
after the constraint) unless it was started with ``--logprobs-mode processed_logprobs``; another's
may be from before the constraint: `runner.engines.self_test` finds that out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.engines.openai_server.patience import Asking, Patience
from runner.engines.openai_server.reply import completions
from runner.engines.openai_server.trust import Trust
from runner.engines.openai_server.wire import Kind, Trouble, Wire
from runner.errors import RecordError, UsageError
from runner.formats.foreign_json import Unreadable
from runner.formats.urls import showable
from runner.job import Local
from runner.notices import UntilHeard
from runner.types import Completion, Engine, Message, Prompt, Reason, Sampling, Say, Usage

_TIMEOUT_S = 600.0
_PROBE = Prompt((Message("user", "Say hello."),))
# vLLM, SGLang and llama.cpp each say it in their own words, all with status 400.
_TOO_LONG = re.compile(r"context (length|size|window)|too long|longer than", re.I)


class OpenAIServerEngine:
    """Connects with the first prompt; for one event loop.

    Args:
        local: the job's ``local`` part; ``engine_args`` go into each request's body, but for
            ``timeout_s`` (600): how long one answer may take, to its last byte.
    """

    def __init__(self, local: Local) -> None:
        if local.base_url is None:
            raise UsageError("local.base_url: `engine: openai_server` needs the server's address")
        if local.reasoning_parser:
            raise UsageError(
                "local.reasoning_parser belongs to the server here: start it with "
                f"--reasoning-parser {local.reasoning_parser}"
            )
        self._body = dict(local.engine_args)
        timeout = self._body.pop("timeout_s", _TIMEOUT_S)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise UsageError(f"local.engine_args.timeout_s: {timeout!r} is no number of seconds")
        if local.chat_template_args:
            self._body["chat_template_kwargs"] = dict(local.chat_template_args)
        self.window = local.window or 64
        self._model = local.model
        self._tell = UntilHeard()
        self._wire = Wire(local.base_url, os.environ.get(local.api_key_env or ""))
        address = showable(local.base_url)
        probe = self._request(_PROBE, Sampling(max_tokens=1))
        self._patience = Patience(
            Asking(
                self._send, probe, address, local.model, local.api_key_env, float(timeout),
                local.server_wait_s, self._tell,
            )
        )  # fmt: skip
        self.plain: Engine = _Plain(self)
        """The same without a doubt of its logprobs: what a self-test asks."""
        self._trust = Trust(self.plain, address, self._tell)

    def hear(self, say: Say) -> None:
        """Who is told of the server's absences from now on, and of those so far."""
        self._tell.hear(say)

    async def there(self) -> None:
        """Waits for a server that is there and does not answer yet. What it refuses is the first
        record's to say.

        Raises:
            EngineError: none is there.
        """
        with contextlib.suppress(RecordError, UsageError):
            await self._patience.ask(self._request(_PROBE, Sampling(max_tokens=1)))

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        completion = await self.answer(prompt, sampling)
        return await self._trust.over(completion, prompt.constraint)

    async def answer(self, prompt: Prompt, sampling: Sampling) -> Completion:
        """As `generate`, with the logprobs as the server gives them."""
        if sampling.n == 1:
            return (await self._patience.ask(self._request(prompt, sampling)))[0]
        # Without temperature all answers would be the same.
        drawn = sampling.n if sampling.temperature > 0 else 1
        found = await self._patience.ask(self._request(prompt, replace(sampling, n=drawn)))
        # llama.cpp and Ollama answer once, whatever `n` says.
        seeds = range(len(found), drawn)
        again = [replace(sampling, n=1, seed=_plus(sampling.seed, i)) for i in seeds]
        requests = [self._request(prompt, one) for one in again]
        more = await asyncio.gather(*(self._patience.ask(request) for request in requests))
        used = [found[0].usage, *(reply[0].usage for reply in more)]
        texts = [one.text for reply in (found, *more) for one in reply][:drawn]
        return replace(
            found[0],
            usage=Usage(used[0].input_tokens, sum(usage.output_tokens for usage in used)),
            samples=tuple(texts * (sampling.n // len(texts))),
        )

    async def aclose(self) -> None:
        await self._patience.aclose()
        await self._wire.aclose()

    async def _send(self, body: Mapping[str, Any], within_s: float) -> list[Completion]:
        """Raises `Trouble`, or `RecordError` where the prompt is too long."""
        try:
            return completions(await self._wire.post(body, within_s), self._model)
        except Unreadable as error:
            raise Trouble(Kind.FAILED, f"its reply is {error}", 200) from None
        except Trouble as trouble:
            if trouble.status in (400, 413, 422) and _TOO_LONG.search(trouble.words):
                raise RecordError(
                    f"the server refuses the prompt: {trouble.words}", Reason.TOO_LONG
                ) from None
            raise

    def _request(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "logprobs": True,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
        }
        if sampling.top_logprobs:
            request["top_logprobs"] = sampling.top_logprobs
        if sampling.n > 1:
            request["n"] = sampling.n
        constraint = prompt.constraint
        if constraint.schema is not None:
            answer = {"name": "answer", "schema": constraint.schema, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif constraint.labels:
            request["structured_outputs"] = {"choice": list(constraint.labels)}
        return {**request, **self._body, **sampling.extra}


class _Plain:
    def __init__(self, engine: OpenAIServerEngine) -> None:
        self._engine = engine
        self.window = engine.window

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        return await self._engine.answer(prompt, sampling)

    async def aclose(self) -> None:
        return None


def _plus(seed: int | None, more: int) -> int | None:
    return None if seed is None else seed + more
