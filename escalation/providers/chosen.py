"""The classes of a job's provider, imported when the first of them is used.

`runner.job.providers` names them; nothing else does.
"""

from __future__ import annotations

import importlib
from typing import Any

from escalation.providers.batch_protocol import BatchApi
from escalation.providers.protocol import Provider
from runner.job import Escalation


def provider_of(escalation: Escalation) -> Provider:
    made: Provider = named(escalation.entry.api)(escalation)
    return made


def batches_of(escalation: Escalation) -> BatchApi:
    """Of a provider that has them."""
    assert escalation.entry.batches is not None
    made: BatchApi = named(escalation.entry.batches)(escalation)
    return made


def named(place: str) -> Any:
    """Imports and returns ``module:name``."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
