"""The unmodified Anthropic SDK, pointed at a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import Message

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


async def create(client: AsyncAnthropic, text: str = "where is my card", **changes: Any) -> Message:
    request: dict[str, Any] = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "output_config": FORMAT,
        **changes,
    }
    message: Message = await client.messages.create(**request)
    return message


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def marked(text: str, ttl: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}
