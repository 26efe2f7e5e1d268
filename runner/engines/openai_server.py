"""A server of one's own that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama.

The server decides what its logprobs mean. vLLM's are taken before temperature and penalties (0.32:
after the constraint) unless it was started with ``--logprobs-mode processed_logprobs``; another's
may be from before the constraint: `runner.engines.self_test` finds that out.
"""

from __future__ import annotations

import asyncio
import codecs
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai
from openai.resources.chat.completions import AsyncCompletions

from runner.errors import EngineError, LocalFirstError, RecordError, UsageError
from runner.job import Local
from runner.types import (
    Alternatives,
    Completion,
    Constraint,
    Prompt,
    Reason,
    Sampling,
    Usage,
)
from runner.urls import hidden, showable

_TIMEOUT_S = 600.0
_OURS = {"self", "messages", "model", "logprobs", "response_format", "stream", "timeout", "n"}
# How servers write −∞, which JSON cannot hold: vLLM −9999, others the least float32.
_IMPOSSIBLE = -9999.0
_KNOWN = set(inspect.signature(AsyncCompletions.create).parameters) - _OURS
# vLLM, SGLang and llama.cpp each say it in their own words, all with status 400.
_TOO_LONG = re.compile(r"context (length|size|window)|too long|longer than", re.I)


class OpenAIServerEngine:
    """Connects with the first prompt.

    Args:
        local: the job's ``local`` part; ``engine_args`` go into each request's body, but for
            ``timeout_s`` (600): how long one answer may take.
    """

    def __init__(self, local: Local) -> None:
        if local.base_url is None:
            raise UsageError("local.base_url: `engine: openai_server` needs the server's address")
        if local.reasoning_parser:
            raise UsageError(
                "local.reasoning_parser belongs to the server here: start it with "
                f"--reasoning-parser {local.reasoning_parser}"
            )
        body = dict(local.engine_args)
        timeout = body.pop("timeout_s", _TIMEOUT_S)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise UsageError(f"local.engine_args.timeout_s: {timeout!r} is no number of seconds")
        if local.chat_template_args:
            body["chat_template_kwargs"] = dict(local.chat_template_args)
        self.window = local.window or 64
        self._body = body
        self._timeout = float(timeout)
        self._model = local.model
        self._key_env = local.api_key_env
        self._url, self._address = local.base_url, showable(local.base_url)
        self._client = openai.AsyncOpenAI(
            base_url=local.base_url,
            api_key=os.environ.get(local.api_key_env or "") or "none",
            max_retries=2,
            timeout=self._timeout,
        )

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        if sampling.n == 1:
            return self._completion(await self._ask(prompt, sampling))
        # Without temperature all answers would be the same.
        drawn = sampling.n if sampling.temperature > 0 else 1
        replies = [await self._ask(prompt, replace(sampling, n=drawn))]
        # llama.cpp and Ollama answer once, whatever `n` says.
        seeds = range(len(replies[0].choices), drawn)
        again = [replace(sampling, n=1, seed=_plus(sampling.seed, i)) for i in seeds]
        replies += await asyncio.gather(*(self._ask(prompt, one) for one in again))
        choices = [choice for reply in replies for choice in reply.choices][:drawn]
        texts = [choice.message.content or "" for choice in choices]
        return replace(
            self._completion(replies[0]),
            usage=_total([_usage(reply.usage) for reply in replies]),
            samples=tuple(texts * (sampling.n // len(texts))),
        )

    async def _ask(self, prompt: Prompt, sampling: Sampling) -> Any:
        messages: Any = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            reply: Any = await self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                logprobs=True,
                **self._request(prompt.constraint, sampling),
            )
        except openai.OpenAIError as error:
            raise self._sentence(error) from None
        if not getattr(reply, "choices", None):
            raise EngineError(
                f"{self._address} does not answer as an OpenAI-compatible server does; "
                "local.base_url is the address up to and with /v1"
            )
        return reply

    async def aclose(self) -> None:
        await self._client.close()

    def _request(self, constraint: Constraint, sampling: Sampling) -> dict[str, Any]:
        request: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
        }
        body = dict(self._body)
        for name, value in sampling.extra.items():
            (request if name in _KNOWN else body)[name] = value
        if sampling.top_logprobs:
            request["top_logprobs"] = sampling.top_logprobs
        if sampling.n > 1:
            request["n"] = sampling.n
        if constraint.schema is not None:
            answer = {"name": "answer", "schema": constraint.schema, "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": answer}
        elif constraint.labels:
            body["structured_outputs"] = {"choice": list(constraint.labels)}
        return {**request, "extra_body": body}

    def _completion(self, reply: Any) -> Completion:
        choice = reply.choices[0]
        text = choice.message.content or ""
        joined = _joined(text, (choice.logprobs and choice.logprobs.content) or ())
        tokens, logprobs, top = joined or ((), None, ())
        # vLLM's name for it, and the older one that SGLang and llama.cpp use.
        fields = choice.message.model_extra or {}
        return Completion(
            text=text,
            model=self._model,
            finish_reason=choice.finish_reason or "stop",
            tokens=tokens,
            logprobs=logprobs,
            usage=_usage(reply.usage),
            reasoning=fields.get("reasoning") or fields.get("reasoning_content"),
            top=top,
        )

    def _sentence(self, error: openai.OpenAIError) -> LocalFirstError:
        if isinstance(error, openai.APITimeoutError):
            return EngineError(
                f"the server at {self._address} gave no answer within {self._timeout:g} s; "
                "raise local.engine_args.timeout_s or lower local.window"
            )
        if isinstance(error, openai.APIConnectionError):
            return EngineError(
                f"no server answers at {self._address}; start it with `vllm serve {self._model} "
                "--logprobs-mode processed_logprobs`, or put its address into local.base_url"
            )
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        said = hidden(str(error), self._url)
        return EngineError(f"the server at {self._address}: {said}")

    def _refusal(self, error: openai.APIStatusError) -> LocalFirstError:
        status, said = error.status_code, hidden(_said(error), self._url)
        if status in (401, 403):
            # The server's own words may repeat the key.
            name = self._key_env or "the variable that local.api_key_env names"
            return UsageError(f"the server at {self._address} refuses the key; put it into {name}")
        if status in (400, 413, 422) and _TOO_LONG.search(said):
            return RecordError(f"the server refuses the prompt: {said}", Reason.BAD_PROMPT)
        if status < 500 and status not in (408, 409, 429):
            hint = "" if status != 404 or "/v1" in self._address else "; its address ends in /v1"
            return UsageError(f"the server at {self._address} refuses the request: {said}{hint}")
        return EngineError(f"the server at {self._address} failed with status {status}: {said}")


def _said(error: openai.APIStatusError) -> str:
    """The server's message alone, without the status and the body around it."""
    body: object = error.body
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    said = body.get("message") or body.get("detail") if isinstance(body, Mapping) else body
    lines = [line.strip() for line in str(said or error.message).splitlines() if line.strip()]
    return lines[0][:500] if lines else f"status {error.status_code}"


def _usage(usage: Any) -> Usage:
    if usage is None:
        return Usage()
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0)


def _plus(seed: int | None, more: int) -> int | None:
    return None if seed is None else seed + more


def _total(usages: Sequence[Usage]) -> Usage:
    return Usage(usages[0].input_tokens, sum(usage.output_tokens for usage in usages))


_Joined = tuple[tuple[str, ...], tuple[float, ...], tuple[Alternatives, ...]]


def _joined(text: str, content: Sequence[Any]) -> _Joined | None:
    """The answer's pieces, logprobs and alternatives, out of a list that may begin with the
    reasoning's and may end with the end token's; ``None`` where no stretch of it joins to the
    text."""
    given = [_bytes(entry) for entry in content]
    for ends in (0, 1):
        last = len(given) - ends
        first = _suffix(given[:last], text.encode("utf-8", "surrogatepass"))
        if last < 0 or first is None:
            continue
        kept = given[first:last]
        surplus = sum(map(len, kept)) - len(text.encode("utf-8", "surrogatepass"))
        begun = kept[0][:surplus] if kept else b""
        if kept:
            kept[0] = kept[0][surplus:]
        pieces = (*_characters(kept), *[""] * ends)
        end = content[-1] if ends else None
        top = _top(content[first:], pieces, begun, end)
        return pieces, tuple(float(entry.logprob) for entry in content[first:]), top
    return None


def _top(
    content: Sequence[Any], pieces: Sequence[str], begun: bytes, end: Any
) -> tuple[Alternatives, ...]:
    """Each token's alternatives, if the server gives any.

    Args:
        begun: the bytes of the first token that stand before the answer.
        end: the end token's entry, by which it is known among the alternatives.
    """

    def text(option: Any, position: int) -> str:
        own = content[position]
        if (option.token, option.bytes) == (own.token, own.bytes):
            return pieces[position]
        if end is not None and option.token == end.token:
            return ""
        written = _bytes(option)
        return (written if position else written.removeprefix(begun)).decode("utf-8", "replace")

    top = [
        sorted(
            ((text(o, position), float(o.logprob)) for o in entry.top_logprobs or ()),
            key=lambda pair: -pair[1],
        )
        for position, entry in enumerate(content)
    ]
    possible = tuple(tuple(p for p in options if p[1] > _IMPOSSIBLE) for options in top)
    return possible if any(possible) else ()


def _bytes(entry: Any) -> bytes:
    # Servers without `bytes` give the text alone.
    return bytes(entry.bytes) if entry.bytes is not None else entry.token.encode("utf-8", "replace")


def _suffix(given: Sequence[bytes], text: bytes) -> int | None:
    """Where the shortest run of pieces starts that ends the list and ends with ``text``."""
    first, tail = len(given), b""
    while len(tail) < len(text) and first > 0:
        first -= 1
        tail = given[first] + tail
    if not any(given[:first]):
        first = 0  # the first parts of a character: no bytes of their own, but a logprob
    return first if tail.endswith(text) and (text or not given) else None


def _characters(given: Sequence[bytes]) -> list[str]:
    """A character of several tokens is its last token's."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(piece) for piece in given]
