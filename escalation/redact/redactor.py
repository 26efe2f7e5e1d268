"""Redacts a prompt, and keeps the values that its placeholders stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from escalation.redact.folding import View, fold, to_the_letter, tokens, view, views
from escalation.redact.patterns import FINDERS, LOCAL_DIGITS, Found, key_of, same_phone, without
from escalation.redact.spotting import Names, NameSpan
from escalation.redact.values import Leaving, Value, compiled, worth_hiding
from runner.errors import RecordError
from runner.types import JSONValue, Message, Prompt, Reason, Record

# Names of at least this length are searched for inside e-mail addresses, which have no spaces.
LEAST_IN_ADDRESS = 3
Span = tuple[int, int, str]
# The parts of a message that determine its spans.
Seen = tuple[str, bool, tuple[tuple[int, int], ...]]


@dataclass(slots=True)
class Placeholders:
    """Placeholder → its value: a ``named`` field's, or one that a pattern ``found``.

    ``keys``: a found value's kind and key → its placeholder. ``spans``: the replacements in
    messages that were searched already.
    """

    named: dict[str, str] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    spans: dict[Seen, list[Span]] = field(default_factory=dict, repr=False, compare=False)

    def __iter__(self) -> Iterator[str]:
        yield from self.named
        yield from self.found

    def items(self) -> Iterator[tuple[str, str]]:
        yield from self.named.items()
        yield from self.found.items()


class Redactor:
    """Replaces named fields' values by ``[FIELD]``, parts and forms of a name by ``[FIELD_1]``, and
    matches of a pattern by ``[KIND_1]``; never in the job's own text (`Message.own`).

    A field that holds a list or an object gets a placeholder for each value in it. ``render`` makes
    a record's prompt, so that the patterns' matches can be found again after a crash without being
    stored.
    """

    def __init__(
        self,
        fields: Sequence[str],
        patterns: Sequence[str] = (),
        render: Callable[[Record], Prompt] | None = None,
    ) -> None:
        self._fields = fields
        self._patterns = frozenset(patterns)
        self._render = render

    def placeholders(self, record: Record) -> Placeholders:
        """The record's placeholders. Deterministic."""
        prompt = self._render(record) if self._render is not None else Prompt(())
        taken = _Names(_texts(prompt))
        named: dict[str, str] = {}
        seen = set[str]()
        for name in self._fields:
            for path, value in _leaves(name, record.fields.get(name)):
                folded = " ".join(fold(value).split())
                if worth_hiding(value) and folded not in seen:
                    seen.add(folded)
                    named[taken.field(path)] = value
        search = _Search(Placeholders(named), self._patterns, taken)
        for message in prompt.messages:
            search.placeholders.spans[_seen(message)] = search.spans(message)
        return search.placeholders

    def redact(self, prompt: Prompt, placeholders: Placeholders) -> Prompt:
        """The redacted prompt.

        Raises:
            RecordError: a named value is still visible, in a spelling that was not recognised.
        """
        known = replace(placeholders, found=dict(placeholders.found), keys=dict(placeholders.keys))
        taken = _Names(_texts(prompt), known)
        search = _Search(known, self._patterns, taken)
        messages, kept = list[Message](), list[str]()
        for message in prompt.messages:
            spans = placeholders.spans.get(_seen(message))
            spans = search.spans(message) if spans is None else spans
            text = _replaced(message.content, spans)
            # Only text that is the same for every record is worth caching.
            same = message.cacheable and not spans
            messages.append(replace(message, content=text, cacheable=same, own=()))
            kept += _between(message.content, [*spans, *((*own, "") for own in message.own)])
        search.refuse_what_shows(kept)
        return replace(prompt, messages=tuple(messages))


def _seen(message: Message) -> Seen:
    return message.content, message.cacheable, message.own


def _texts(prompt: Prompt) -> Iterator[str]:
    """The texts that may already contain a placeholder: a label can look like one."""
    yield from (message.content for message in prompt.messages)
    yield from prompt.constraint.labels or ()
    yield str(prompt.constraint.schema or "")


class _Names:
    """Makes placeholders that do not occur in the texts."""

    def __init__(self, texts: Iterator[str], known: Placeholders | None = None) -> None:
        brackets = (re.findall(r"\[[^\[\]\n]{1,200}\]", text) for text in texts)
        self._taken = {found.casefold() for each in brackets for found in each}
        self._taken |= {name.casefold() for name in known or ()}
        self._next: dict[str, int] = {}

    def field(self, path: str) -> str:
        name = re.sub(r"[^\w.]+", "_", path.upper()).strip("_") or "FIELD"
        return self._take(f"[{name}]") or self._numbered(name, 2)

    def kind(self, kind: str) -> str:
        return self._numbered(kind.upper(), 1)

    def _numbered(self, name: str, first: int) -> str:
        n = self._next.get(name, first)
        while not (placeholder := self._take(f"[{name}_{n}]")):
            n += 1
        self._next[name] = n + 1
        return placeholder

    def _take(self, placeholder: str) -> str:
        if placeholder.casefold() in self._taken:
            return ""
        self._taken.add(placeholder.casefold())
        return placeholder


def _leaves(path: str, value: JSONValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        for n, inner in enumerate(value, start=1):
            yield from _leaves(f"{path}.{n}", inner)
    elif value is not None and not isinstance(value, bool):
        yield path, str(value).strip()


def _replaced(text: str, spans: list[Span]) -> str:
    pieces, at = list[str](), 0
    for start, end, placeholder in spans:
        pieces += [text[at:start], placeholder]
        at = end
    return "".join([*pieces, text[at:]])


def _between(text: str, spans: list[Span]) -> list[str]:
    """The text outside the spans."""
    pieces, at = list[str](), 0
    for start, end, _ in sorted(spans):
        pieces.append(text[at:start])
        at = max(at, end)
    return [*pieces, text[at:]]


def _in_order(spans: list[Span]) -> list[Span]:
    """The spans in order, without overlaps; all text that any span covers stays covered."""
    kept = list[Span]()
    for start, end, placeholder in sorted(spans, key=lambda span: (span[0], -span[1])):
        at = kept[-1][1] if kept else 0
        # "Ana Wu, Ana Wu" contains "Wu, Ana", whose second half is in the next span.
        if end > at and not (start < at and placeholder == kept[-1][2]):
            kept.append((max(start, at), end, placeholder))
    return kept


class _Search:
    """Finds the replacements in one record's messages, and adds to its placeholders."""

    def __init__(self, known: Placeholders, patterns: frozenset[str], names: _Names) -> None:
        self.placeholders = known
        self._patterns = patterns
        self._taken = names
        self._names = Names(known.named)
        self._values: dict[str, Value] = {
            p: compiled(v) for p, v in known.named.items() if not self._names.doubtful(p)
        }
        self._searched = {p: v for p, v in self._values.items() if not self._names.cover(p)}
        inside = {w for v in self._values.values() for s in v.spellings for w in ["".join(s)]}
        inside |= set(self._names.glued(LEAST_IN_ADDRESS))
        self._inside = [w for w in inside if len(w) >= LEAST_IN_ADDRESS]
        self._keys: dict[tuple[str, str], str] = {}
        self._phones: dict[str, list[tuple[str, str]]] = {}
        for placeholder, value in known.named.items():
            for kind in FINDERS:
                if key := key_of(kind, fold(value)):
                    self._remember(kind, key, placeholder)
        for (kind, key), placeholder in known.keys.items():
            self._remember(kind, key, placeholder)

    def spans(self, message: Message) -> list[Span]:
        """The replacements in order; the job's own text is not searched."""
        spans = list[Span]()
        at = 0
        for start, end in (*message.own, (len(message.content),) * 2):
            if at < start:
                part = message.content[at:start]
                found = self._in_part(part, constant=message.cacheable)
                spans += (
                    (at + first, at + last, placeholder) for first, last, placeholder in found
                )
            at = end
        return spans

    def refuse_what_shows(self, kept: Sequence[str]) -> None:
        if not self.placeholders.named:
            return
        text = "\0".join(kept)
        for leaving in map(Leaving, dict.fromkeys((view(text).text, fold(text)))):
            shown = [p for p, value in self._values.items() if value.shows(leaving)]
            name = self._names.remain(leaving.words, leaving.spelt)
            for placeholder in [*shown, *([name] if name else [])]:
                raise RecordError(
                    f"the prompt would still contain the value of a redacted field "
                    f"({placeholder}); it was not sent",
                    Reason.REDACTION,
                )

    def _in_part(self, text: str, *, constant: bool) -> list[Span]:
        spans, names = list[Span](), list[NameSpan]()
        meant = [*views(text)]
        for each in (*meant, *to_the_letter(text)):
            for placeholder, value in self._searched.items():
                found = value.spans(each.text)
                spans += ((*each.original(*span), placeholder) for span in found)
            names += self._names.spans(each, text)
        for name in sorted(names):
            placeholder = name.field if name.whole else self._part(name, text)
            spans.append((name.start, name.end, placeholder))
        for each in meant:
            spans += self._found(each, text, spans, constant=constant)
        return _in_order(spans)

    def _part(self, name: NameSpan, text: str) -> str:
        """The placeholder of a part or a form of a name; it is restored as it was written."""
        found = text[name.start : name.end]
        return self._placeholder(name.field.strip("[]"), " ".join(tokens(fold(found))), found)

    def _found(self, seen: View, text: str, named: list[Span], *, constant: bool) -> list[Span]:
        """The patterns' matches. A constant message is the job's and holds no personal data."""
        spans, left = list[Span](), seen.text
        for kind in FINDERS:
            wanted = kind in self._patterns and not constant
            if not wanted and not (kind == "email" and self._inside):
                continue
            taken = []
            for found in FINDERS[kind](left):
                start, end = seen.original(found.start, found.end)
                if wanted or self._names_someone(found, start, end, named):
                    spans.append((start, end, self._placeholder(kind, found.key, text[start:end])))
                    taken.append((found.start, found.end))
            left = without(left, taken)
        return spans

    def _names_someone(self, found: Found, start: int, end: int, named: list[Span]) -> bool:
        if self._known(found.kind, found.key):
            return True
        if any(s < end and start < e for s, e, _ in named):
            return True
        bare = re.sub(r"[\W_]", "", found.key)
        return any(w in bare for w in self._inside)

    def _placeholder(self, kind: str, key: str, text: str) -> str:
        if known := self._known(kind, key):
            return known
        placeholder = self._taken.kind(kind)
        self.placeholders.found[placeholder] = text
        self.placeholders.keys[kind, key] = placeholder
        self._remember(kind, key, placeholder)
        return placeholder

    def _known(self, kind: str, key: str) -> str | None:
        if kind == "phone":
            alike = self._phones.get(key[-LOCAL_DIGITS:], ())
            return next((p for other, p in alike if same_phone(key, other)), None)
        return self._keys.get((kind, key))

    def _remember(self, kind: str, key: str, placeholder: str) -> None:
        if kind == "phone":
            self._phones.setdefault(key[-LOCAL_DIGITS:], []).append((key, placeholder))
        self._keys.setdefault((kind, key), placeholder)
