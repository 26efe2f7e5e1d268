"""What a request costs, by the APIs' lists: written down here anew, so that a mistake in the
product's prices cannot hide behind the same mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

# USD per million tokens: input, output, 5-minute cache write, 1-hour cache write, cache read.
_CLAUDE: Final[dict[str, str]] = {
    "claude-haiku-5-5": "0.10 0.50 0.125 0.20 0.01",
    "claude-sonnet-5-5": "2 10 2.50 4 0.10",
    "claude-opus-5-5": "4 20 5 8 0.20",
    "claude-fable-5-2": "8 40 10 16 0.20",
    "claude-fable-5-1": "10 50 12.50 20 0.25",
    "claude-sonnet-5": "2 10 2.50 4 0.20",
    "claude-opus-5": "5 25 6.25 10 0.50",
    "claude-opus-4-8": "5 25 6.25 10 0.50",
    "claude-opus-4-7": "5 25 6.25 10 0.50",
    "claude-opus-4-6": "5 25 6.25 10 0.50",
    "claude-opus-4-5": "5 25 6.25 10 0.50",
    "claude-sonnet-4-6": "3 15 3.75 6 0.30",
    "claude-sonnet-4-5": "3 15 3.75 6 0.30",
    "claude-haiku-4-5": "1 5 1.25 2 0.10",
}
# A prompt longer than this is charged at the second row, all of its tokens, the output too.
_LONG: Final[dict[str, tuple[int, str]]] = {
    "claude-haiku-5-5": (100_000, "0.50 2.50 0.625 1.00 0.05"),
}
_DATED: Final[dict[str, str]] = {
    "claude-haiku-4-5-20251001": "claude-haiku-4-5",
    "claude-opus-4-5-20251101": "claude-opus-4-5",
    "claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
}
MODELS: Final[frozenset[str]] = frozenset(_CLAUDE) | frozenset(_DATED)

# USD per million tokens: input, output, cache write, cache read; then the same of long prompts.
_CHAT: Final[dict[str, tuple[str, int, str]]] = {
    "gpt-6.2-sol": ("2 10 2.5 2", 272_000, "4 15 5 4"),
    "gpt-6.2-astra": ("8 40 10 8", 272_000, "16 60 20 16"),
    "gpt-6.1-sol": ("2 10 2.5 0.1", 272_000, "4 15 5 0.2"),
    "gpt-6.1-terra": ("1 5 1.25 0.05", 272_000, "2 7.5 2.5 0.1"),
    "gpt-6-astra": ("10 50 12.5 1", 272_000, "20 75 25 2"),
    "gpt-6-sol": ("2 10 2.5 0.2", 272_000, "4 15 5 0.4"),
    "gpt-6-luna": ("0.1 0.5 0.125 0.01", 272_000, "0.2 0.75 0.25 0.02"),
    "gemini-3.8-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.7-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.6-flash": ("0.75 3.75 0 0.075", 1 << 62, ""),
    "gemini-3.5-flash": ("1.5 9 0 0.15", 1 << 62, ""),
    "gemini-3.5-flash-lite": ("0.3 2.5 0 0.03", 1 << 62, ""),
    "gemini-3.1-flash-lite": ("0.25 1.5 0 0.025", 1 << 62, ""),
    "gemini-3.1-pro-preview": ("2 12 0 0.2", 200_000, "4 18 0 0.4"),
}
CHAT_MODELS: Final[frozenset[str]] = frozenset(_CHAT)


def price_usd(model: str, usage: Mapping[str, Any]) -> Decimal:
    """The exact price of one answer, from the `usage` object as it goes over the wire."""
    model = _DATED.get(model, model)
    fresh, read = int(usage["input_tokens"]), int(usage["cache_read_input_tokens"])
    split = usage["cache_creation"]
    short, hour = int(split["ephemeral_5m_input_tokens"]), int(split["ephemeral_1h_input_tokens"])
    above, long = _LONG.get(model, (1 << 62, ""))
    row = long if fresh + short + hour + read > above else _CLAUDE[model]
    where = Decimal("1.1") if usage.get("inference_geo") == "us" else 1
    return _sum((fresh, int(usage["output_tokens"]), short, hour, read), row) * where


def chat_price_usd(model: str, usage: Mapping[str, Any]) -> Decimal:
    """The same of OpenAI's and Gemini's."""
    prompt, details = int(usage["prompt_tokens"]), usage["prompt_tokens_details"]
    written, read = int(details.get("cache_write_tokens") or 0), int(details["cached_tokens"])
    row, above, long = _CHAT[model]
    counts = (prompt - written - read, int(usage["total_tokens"]) - prompt, written, read)
    return _sum(counts, long if prompt > above else row)


def _sum(counts: Sequence[int], row: str) -> Decimal:
    prices = map(Decimal, row.split())
    return sum((n * p for n, p in zip(counts, prices, strict=True)), Decimal(0)) / 1_000_000
