"""A request's body, to the byte: what is measured before it leaves, and known by its hash later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def body_bytes(request: Mapping[str, Any]) -> bytes:
    """The request's body to the byte as the provider's SDK sends it."""
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def mark_of(request: Mapping[str, Any]) -> str:
    """SHA-256 of its body, as the ledger has it of every request that left."""
    return hashlib.sha256(body_bytes(request)).hexdigest()
