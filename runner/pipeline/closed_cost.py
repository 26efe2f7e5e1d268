"""What the closed model would cost for a prompt, by an estimate that builds no request."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from functools import lru_cache

from escalation.providers.prices import Price
from escalation.providers.request_bytes import body_bytes
from runner.answering.prompts import Renderer
from runner.errors import RecordError
from runner.types import Prompt, Record

# An answer's length where no local answer shows it: a short JSON object.
TYPICAL_OUTPUT_TOKENS = 24
# Of a request, besides the texts and the constraint: keys, roles, the model's name.
AROUND_BYTES = 250


class ClosedCost:
    """US dollars; 0 for everything where the job has no closed model, and so no ``price``."""

    def __init__(self, renderer: Renderer, price: Price | None) -> None:
        self._renderer = renderer
        # Not by building requests: that takes the provider's SDK, seconds before the first record.
        self._sizes: dict[int, int] = {}
        # Records are of few lengths.
        self._priced = lru_cache(4096)(price.estimate) if price is not None else None

    def of_prompt(self, prompt: Prompt, output_tokens: int = 0) -> Decimal:
        """``output_tokens``: of the local answer, where there is one."""
        if self._priced is None:
            return Decimal(0)
        around = self._sizes.get(id(prompt.constraint))
        if around is None:
            around = len(body_bytes(asdict(prompt.constraint))) + AROUND_BYTES
            self._sizes[id(prompt.constraint)] = around
        for message in prompt.messages:
            around += _bytes(message.content)
        return self._priced(around, output_tokens or TYPICAL_OUTPUT_TOKENS)

    def of_record(self, record: Record) -> Decimal:
        """The same for its prompt; 0 where it makes none."""
        if self._priced is None:
            return Decimal(0)
        try:
            return self.of_prompt(self._renderer.render(record))
        except RecordError:
            return Decimal(0)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
