"""The parts that a job needs to call the closed model, and the protocol of a sender."""

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
    """Everything needed to call the closed model; `runner.pipeline.assemble` builds it.

    ``spend_file`` holds the spending under the daily cap. ``batches`` connects to the provider's
    batch API, if it has one. ``patience`` holds the courier's time limits."""

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
        """Whether requests can be sent; a self-hosted server may need no API key."""
        name = self.settings.api_key_env
        return name is None or bool(os.environ.get(name))
