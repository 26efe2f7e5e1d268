"""What a job's closed side consists of, and who sends for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from escalation.providers.batch_protocol import BatchApi
from escalation.providers.patience import Patience
from escalation.providers.prices import Price
from escalation.providers.protocol import Provider, Reply
from escalation.redact import Redactor
from runner.answering.check import Checker
from runner.answering.prompts import Renderer
from runner.job import Escalation


class Sender(Protocol):
    async def send(self, attempt: int, request: Mapping[str, Any]) -> Reply: ...


@dataclass(frozen=True, slots=True)
class ClosedSide:
    """`runner.pipeline.assemble` puts it together. ``spend_file``: where the day's cap is kept.
    ``batches``: connects to the provider's batches, where it has such a thing. ``patience``: what
    the courier is given."""

    settings: Escalation
    provider: Provider
    price: Price
    renderer: Renderer
    checker: Checker
    redactor: Redactor
    spend_file: Path
    patience: Patience
    batches: Callable[[], BatchApi] | None = None

    @property
    def has_key(self) -> bool:
        """Whether there is what it takes to send: a server of one's own may ask for no key."""
        name = self.settings.api_key_env
        return name is None or bool(os.environ.get(name))
