"""Named fields' values never leave the machine: placeholders out, values back in.

It fails closed: where a value would still leave, the record is not sent.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import RecordError
from runner.types import Completion, JSONValue, Prompt, Reason, Record

# A value shorter than this ("a", "3") would blank out half of any prompt.
LEAST_LENGTH = 2
SURELY_ITSELF = 7


class Redactor:
    """Replaces the values of ``fields``, in any case and spacing, by ``[FIELD]``."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields

    def placeholders(self, record: Record) -> dict[str, str]:
        """Placeholder → the value it stands for, longest value first."""
        found = {
            f"[{name.upper()}]": str(record.fields[name]).strip()
            for name in self._fields
            if record.fields.get(name) is not None
        }
        found = {k: v for k, v in found.items() if len(v) >= LEAST_LENGTH}
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def redact(self, prompt: Prompt, placeholders: Mapping[str, str]) -> Prompt:
        """The prompt as it may leave.

        Raises:
            RecordError: a value still shows, in whatever spelling was not recognised.
        """
        messages = tuple(
            replace(m, content=_replace(m.content, placeholders)) for m in prompt.messages
        )
        leaving = " ".join(m.content for m in messages)
        for placeholder in placeholders:
            leaving = leaving.replace(placeholder, " ")
        words = f" {' '.join(_words(leaving))} "
        for placeholder, value in placeholders.items():
            if _shows(_words(value), words):
                raise RecordError(
                    f"the value of a redacted field would still leave as part of the prompt "
                    f"({placeholder}); it was not sent",
                    Reason.REDACTION,
                )
        return replace(prompt, messages=messages)


def _replace(text: str, placeholders: Mapping[str, str]) -> str:
    for placeholder, value in placeholders.items():
        words = r"\s+".join(re.escape(word) for word in value.split())
        text = re.sub(rf"(?<!\w){words}(?!\w)", placeholder, text, flags=re.IGNORECASE)
    return text


def _words(text: str) -> list[str]:
    """Letters and digits only, without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", bare)


def _shows(value: list[str], words: str) -> bool:
    if f" {' '.join(value)} " in words:
        return True
    # Long enough not to be part of another word by chance ("ana" in "banana" is).
    run_together = "".join(value)
    return len(run_together) >= SURELY_ITSELF and run_together in words.replace(" ", "")


def restore(completion: Completion, placeholders: Mapping[str, str]) -> Completion:
    """The answer with the values back in place, inside JSON strings too."""
    if not any(placeholder in completion.text for placeholder in placeholders):
        return completion
    try:
        value = json.loads(completion.text)
    except json.JSONDecodeError:
        return replace(completion, text=str(_restored(completion.text, placeholders)))
    return replace(completion, text=json.dumps(_restored(value, placeholders), ensure_ascii=False))


def _restored(value: JSONValue, placeholders: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for placeholder, original in placeholders.items():
            value = value.replace(placeholder, original)
        return value
    if isinstance(value, list):
        return [_restored(v, placeholders) for v in value]
    if isinstance(value, dict):
        return {k: _restored(v, placeholders) for k, v in value.items()}
    return value
