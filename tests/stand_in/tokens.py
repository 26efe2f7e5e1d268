"""Counting: a quarter of the bytes, rounded up, block by block.

Block by block, so that what the cache takes and what is left always add up to the whole count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Block:
    text: str  # what is counted and what the cache's key is made of
    tokens: int
    ttl: str | None = None  # set where a cache breakpoint stands


def count(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def blocks(body: Mapping[str, Any]) -> list[Block]:
    """The prompt in the order in which the cache sees it: schema, system, messages."""
    found: list[Block] = []
    if schema := body.get("output_config", {}).get("format"):
        found.append(_block(json.dumps(schema, sort_keys=True), {}))
    for block in parts(body.get("system", [])):
        found.append(_block(block["text"], block))
    for message in body["messages"]:
        for block in parts(message["content"]):
            found.append(_block(block["text"], block))
    if (mark := body.get("cache_control")) and found:
        found[-1] = Block(found[-1].text, found[-1].tokens, mark.get("ttl", "5m"))
    return found


def parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def prefix_key(model: str, prefix: list[Block]) -> str:
    return hashlib.sha256(json.dumps([model, *(b.text for b in prefix)]).encode()).hexdigest()


def _block(text: str, fields: Mapping[str, Any]) -> Block:
    mark = fields.get("cache_control")
    return Block(text, count(text), mark.get("ttl", "5m") if mark else None)
