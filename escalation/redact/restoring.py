"""Restores the values of placeholders in an answer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from escalation.redact.redactor import Placeholders
from runner.types import Completion, JSONValue


def restore(completion: Completion, placeholders: Placeholders) -> Completion:
    """The answer with its placeholders replaced by their values, also inside JSON strings."""
    values = {name.casefold(): value for name, value in placeholders.items()}
    if not values or "[" not in completion.text:
        return completion
    # Some models write a placeholder in lower case.
    any_of = re.compile("|".join(map(re.escape, values)), re.IGNORECASE)

    def restored(value: JSONValue) -> Any:
        if isinstance(value, str):
            return any_of.sub(lambda found: values[found[0].casefold()], value)
        if isinstance(value, list):
            return [restored(v) for v in value]
        if isinstance(value, dict):
            return {restored(k): restored(v) for k, v in value.items()}
        return value

    try:
        given = json.loads(completion.text)
    except (json.JSONDecodeError, RecursionError):
        return replace(completion, text=str(restored(completion.text)))
    whole = restored(given)
    if whole == given:
        return completion
    return replace(completion, text=json.dumps(whole, ensure_ascii=False))
