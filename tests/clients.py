"""The unmodified SDKs, pointed at a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import openai
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import Message
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from tests.stand_in import StandIn

T = TypeVar("T")
LABELS = ["card_arrival", "lost_card", "exchange_rate"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"intent": {"type": "string", "enum": LABELS}},
    "required": ["intent"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {"format": {"type": "json_schema", "schema": SCHEMA}}


def with_client(api: StandIn, work: Callable[[AsyncAnthropic], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        settings = {"api_key": "k", "max_retries": 0, "timeout": 5.0, **options}
        # Without certificates: loading them is most of what a client costs here.
        http = DefaultAsyncHttpxClient(verify=False)
        async with AsyncAnthropic(
            base_url=api.url, open_telemetry=False, http_client=http, **settings
        ) as client:
            return await work(client)

    return asyncio.run(main())


def request_body(text: str = "where is my card", **changes: Any) -> dict[str, Any]:
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "output_config": FORMAT,
        **changes,
    }


async def create(client: AsyncAnthropic, text: str = "where is my card", **changes: Any) -> Message:
    message: Message = await client.messages.create(**request_body(text, **changes))
    return message


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def marked(text: str, ttl: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def with_openai(api: StandIn, work: Callable[[AsyncOpenAI], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        settings = {"api_key": "k", "max_retries": 0, "timeout": 5.0, **options}
        http = openai.DefaultAsyncHttpxClient(verify=False)
        async with AsyncOpenAI(base_url=f"{api.url}/v1", http_client=http, **settings) as client:
            return await work(client)

    return asyncio.run(main())


def chat_body(text: str = "where is my card", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "gpt-6.1-sol", "messages": messages, "max_completion_tokens": 50} | changes


async def chat(client: AsyncOpenAI, **changes: Any) -> ChatCompletion:
    answer: ChatCompletion = await client.chat.completions.create(**chat_body(**changes))
    return answer
