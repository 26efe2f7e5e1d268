"""Named fields' values never leave the machine: placeholders out, values back in.

It fails closed: where a value would still leave, the record is not sent.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.errors import RecordError
from runner.types import Completion, JSONValue, Prompt, Reason, Record

# A value shorter than this ("a", "3") would blank out half of any prompt.
LEAST_LENGTH = 2
SURELY_ITSELF = 7
# Scripts whose words stand together, or take particles without a space: Hebrew and Arabic, Thai to
# Burmese, Khmer, Hangul, kana, Han. There a neighbouring letter does not end the search.
_TOGETHER = (
    "\u0590-\u06ff\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_APART = rf"[^\W{_TOGETHER}]"


class Redactor:
    """Replaces the values of ``fields``, in any case and spacing, by ``[FIELD]``.

    A field that holds a list or an object has a placeholder for each value in it.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._fields = fields

    def placeholders(self, record: Record) -> dict[str, str]:
        """Placeholder → the value it stands for, longest value first."""
        found: dict[str, str] = {}
        for field in self._fields:
            for name, value in _leaves(field.upper(), record.fields.get(field)):
                if len(value) < LEAST_LENGTH or value in found.values():
                    continue
                placeholder, n = f"[{name}]", 1
                while placeholder in found:
                    n += 1
                    placeholder = f"[{name} {n}]"
                found[placeholder] = value
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


def _leaves(name: str, value: JSONValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{str(key).upper()}", inner)
    elif isinstance(value, list | tuple):
        for n, inner in enumerate(value, start=1):
            yield from _leaves(f"{name}.{n}", inner)
    elif value is not None and not isinstance(value, bool):
        yield name, str(value).strip()


def _replace(text: str, placeholders: Mapping[str, str]) -> str:
    if not placeholders:
        return text
    # All in one pass, longest first: a placeholder put in is not searched for the next value.
    names = list(placeholders)
    values = "|".join(f"({_pattern(value)})" for value in placeholders.values())
    return re.sub(
        values, lambda found: names[(found.lastindex or 0) - 1], text, flags=re.IGNORECASE
    )


def _pattern(value: str) -> str:
    words = r"\s+".join(re.escape(word) for word in value.split())
    before = f"(?<!{_APART})" if re.match(_APART, value[0]) else ""
    after = f"(?!{_APART})" if re.match(_APART, value[-1]) else ""
    return f"{before}{words}{after}"


def _words(text: str) -> list[str]:
    """Letters and digits only, without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.findall(rf"[{_TOGETHER}]+|[^\W_{_TOGETHER}]+", bare)


def _shows(value: list[str], words: str) -> bool:
    if f" {' '.join(value)} " in words:
        return True
    # Long enough not to be part of another word by chance ("ana" in "banana" is).
    run_together = "".join(value)
    whole = len(run_together) >= SURELY_ITSELF or re.search(f"[{_TOGETHER}]", run_together)
    return bool(value and whole) and run_together in words.replace(" ", "")


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
        any_of = "|".join(map(re.escape, placeholders))
        return re.sub(any_of, lambda found: placeholders[found[0]], value)
    if isinstance(value, list):
        return [_restored(v, placeholders) for v in value]
    if isinstance(value, dict):
        return {k: _restored(v, placeholders) for k, v in value.items()}
    return value
