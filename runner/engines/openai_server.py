"""A server of one's own that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama.

The server decides what its logprobs mean. vLLM's are taken before the constraint unless it was
started with ``--logprobs-mode processed_logprobs``; only then are they what `Completion` promises.
"""

from __future__ import annotations

import codecs
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import openai
from openai.resources.chat.completions import AsyncCompletions

from runner.errors import EngineError, LocalFirstError, RecordError, UsageError
from runner.job import Local
from runner.types import Completion, Constraint, Prompt, Reason, Sampling, Usage

_TIMEOUT_S = 600.0
_OURS = {"self", "messages", "model", "logprobs", "response_format", "stream", "timeout", "n"}
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
        self._address = _without_login(local.base_url)
        self._client = openai.AsyncOpenAI(
            base_url=local.base_url,
            api_key=os.environ.get(local.api_key_env or "") or "none",
            max_retries=2,
            timeout=self._timeout,
        )

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
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
        return self._completion(reply)

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
        tokens, logprobs = joined or ((), None)
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
        return EngineError(f"the server at {self._address}: {error}")

    def _refusal(self, error: openai.APIStatusError) -> LocalFirstError:
        status, said = error.status_code, _said(error)
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


def _joined(text: str, content: Sequence[Any]) -> tuple[tuple[str, ...], tuple[float, ...]] | None:
    """The answer's pieces and logprobs, out of a list that may begin with the reasoning's and may
    end with the end token's; ``None`` where no stretch of it joins to the text."""
    given = [_bytes(entry) for entry in content]
    for ends in (0, 1):
        last = len(given) - ends
        first = _suffix(given[:last], text.encode("utf-8", "surrogatepass"))
        if last < 0 or first is None:
            continue
        kept = given[first:last]
        surplus = sum(map(len, kept)) - len(text.encode("utf-8", "surrogatepass"))
        if kept:
            kept[0] = kept[0][surplus:]
        pieces = (*_characters(kept), *[""] * ends)
        return pieces, tuple(float(entry.logprob) for entry in content[first:])
    return None


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


def _without_login(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
