"""Finds a record's names in a text: whole, partial, declined, joined, or as initials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from escalation.redact.context import asks, names_someone
from escalation.redact.finding import Finder, Hit, Known, outer
from escalation.redact.folding import LETTER, View, fold, tokens
from escalation.redact.names import initials, is_name, listed, of_people, words_of

MOST_BETWEEN = 8
# Between two words of one name there may be an initial or a particle.
_BETWEEN = re.compile(
    rf"(?:[^\w;:!?]|_){{0,3}}"
    rf"(?:(?:{LETTER}\.?|de|la|van|der|den|von|of|el|al|bin|da|dos?)[\W_]{{1,3}}){{0,3}}"
)
_BESIDE = re.compile(r"(?:[^\w.!?;:]|_){0,6}")
_INITIALS = re.compile(
    r"(?:(?<![\w'’])[^\W\d_]\.[ \-]?){1,3}$|(?<![\w'’])[B-HJ-ZÀ-Þ][ \-]$|\b[ODL]['’]$|\bMa?c ?$"
)
_INITIALS_BEHIND = re.compile(
    r",?[ \-]?(?:[A-ZÀ-Þ]\.[ \-]?){1,3}(?<! )(?<!-)|,? [B-HJ-ZÀ-Þ](?!['’\w\\])"
)
_JOINTS = frozenset(" .,-'’")
_NO_NAMES = listed("us am pm ie eg ps uk po dc la ny id tv nb vs ca no st")


class NameSpan(NamedTuple):
    """A name in a text. ``whole``: it is the field's whole value, not a part or form of it."""

    start: int
    end: int
    field: str
    whole: bool


class Names:
    """The names of one record. ``named``: placeholder → the value of a named field."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self._known: list[Known] = []
        self._single = {p for p, v in named.items() if v.isalpha() and is_name(v)}
        self._values = {p: sorted(tokens(fold(v))) for p, v in named.items()}
        self._initials: dict[str, str] = {}
        for field, value in named.items():
            if is_name(value):
                self._initials[field] = initials(value)
                for word in words_of(value, of_people(field)):
                    self._known.append(Known(word, field, len(self._known)))
        self._all = [w for p, v in named.items() if is_name(v) for w in self._values[p]]
        self._letters = set("".join(self._initials.values()))
        self._exact: dict[str, Known] = {}
        self._stems: dict[str, list[tuple[Known, frozenset[str] | None]]] = {}
        for known in self._known:
            for spelling in known.word.spellings:
                self._exact.setdefault(spelling, known)
            for stem, rests in known.word.stems:
                self._stems.setdefault(stem, []).append((known, rests))

    def cover(self, field: str) -> bool:
        """Whether this search also covers the field's whole value: it is a single word, or consists
        of ordinary words."""
        found = [known.word.doubtful for known in self._known if known.field == field]
        return bool(found) and (all(found) or field in self._single)

    def doubtful(self, field: str) -> bool:
        found = [known.word.doubtful for known in self._known if known.field == field]
        return bool(found) and all(found)

    def glued(self, least: int) -> list[str]:
        """The spellings to search for inside addresses."""
        return [s for s in self._exact if len(s) >= least and s.isalpha()]

    def remain(self, words: str, spelt: list[str]) -> str | None:
        """The field of a name that is among a text's words, or is spelt out there."""
        for spelling, known in self._exact.items():
            if not spelling.isalpha():
                continue
            # A spelt-out "May" is not the month; spelt-out names of two letters were found before.
            if (not known.word.doubtful and f" {spelling} " in words) or (
                len(spelling) > 2 and any(spelling in each for each in spelt)
            ):
                return known.field
        return None

    def spans(self, seen: View, text: str) -> Iterator[NameSpan]:
        if not self._known:
            return
        hits = outer([*Finder(seen, self._exact, self._stems, self._letters).hits()])
        cluster: list[Hit] = []
        for hit in self._settled(hits, seen, text):
            apart = cluster and (
                hit.known.field != cluster[-1].known.field
                or (
                    any(hit.known is each.known for each in cluster) and not self._doubled(hit, hit)
                )
                or not _BETWEEN.fullmatch(seen.text, cluster[-1].end, hit.start)
            )
            if apart:
                yield self._span(cluster, seen, text)
                cluster = []
            cluster.append(hit)
        if cluster:
            yield self._span(cluster, seen, text)
        yield from self._initialled(text)

    def _settled(self, hits: list[Hit], seen: View, text: str) -> Iterator[Hit]:
        """The hits without doubtful ones that do not name a person."""
        for n, hit in enumerate(hits):
            beside = hits[max(0, n - 1) : n] + hits[n + 1 : n + 2]
            if (
                hit.sure
                or self._accented(hit, seen, text)
                or any(self._together(hit, other, seen, text) for other in beside)
                or self._initial_before(hit, seen, text)
                or names_someone(text, *seen.original(hit.start, hit.end))
            ):
                yield hit

    def _accented(self, hit: Hit, seen: View, text: str) -> bool:
        """Văn is no van, and Groß not gross."""
        start, end = seen.original(hit.start, hit.end)
        return text[start].isupper() and not text[start:end].isascii()

    def _together(self, one: Hit, other: Hit, seen: View, text: str) -> bool:
        """Whether two adjacent hits, one of them doubtful, form a name."""
        first, last = sorted((one, other), key=lambda hit: hit.start)
        between = seen.text[first.end : last.start]
        if len(between) > MOST_BETWEEN:
            return False
        if one.known is other.known and not self._doubled(one, other):
            return False
        starts = [text[seen.original(hit.start, hit.end)[0]].isupper() for hit in (first, last)]
        if re.fullmatch(r"\s+[a-z]\.?\s+", between):
            return all(starts) or other.sure
        if not _BESIDE.fullmatch(between):
            return False
        if other.sure or all(starts):
            return True
        in_order = first.known.order < last.known.order
        return (in_order or self._doubled(first, last)) and "," not in between

    def _doubled(self, one: Hit, other: Hit) -> bool:
        """Whether the word occurs twice in the names, as in "Rose Rose"."""
        same = one.known.word.spellings[0]
        return one.known is other.known and self._all.count(same) > 1

    def _initial_before(self, hit: Hit, seen: View, text: str) -> bool:
        start, end = seen.original(hit.start, hit.end)
        before = text[max(0, start - 4) : start]
        initial = before.rstrip(" .-")
        if not initial or initial[-2:-1].isalnum() or fold(initial[-1]) not in self._letters:
            return False
        if asks(text, start, end):
            return False
        if before[len(initial) :] == " ":
            return initial[-1].isupper() and initial[-1] not in "AI" and text[start].isupper()
        return before[len(initial) :] in (".", ". ", ".-")

    def _span(self, cluster: list[Hit], seen: View, text: str) -> NameSpan:
        field = cluster[0].known.field
        found = tokens(seen.text[cluster[0].start : cluster[-1].end])
        start, end = seen.original(cluster[0].start, cluster[-1].end)
        first, last = start, end
        before = text[max(0, start - 12) : start]
        if before[-1:] in _JOINTS or before[-1:].isalpha():
            initial = _INITIALS.search(before)
            start -= len(initial[0]) if initial and self._is_initial(initial[0]) else 0
        if text[end : end + 1] in _JOINTS:
            initial = _INITIALS_BEHIND.match(text, end)
            end = initial.end() if initial and self._is_initial(initial[0]) else end
        whole = (start, end) == (first, last) and (
            sorted(found) == self._values[field]
            or (field in self._single and "".join(found) in self._exact)
        )
        return NameSpan(start, end, field, whole)

    def _is_initial(self, found: str) -> bool:
        """With a full stop, any letter may be an initial; without, only one of the name's
        initials."""
        return (
            "." in found
            or "'" in found
            or "’" in found
            or "c" in found
            or (fold(found.strip(", -")) in self._letters)
        )

    def _initialled(self, text: str) -> Iterator[NameSpan]:
        """Initials of the name, such as "J.S."; not in lower case, and not "U.S."."""
        whole = "".join(each for field, each in self._initials.items() if of_people(field))
        for field, letters in [*self._initials.items(), (next(iter(self._initials), ""), whole)]:
            if len(letters) < 2 or (len(letters) == 2 and letters in _NO_NAMES):
                continue
            for ends in {letters, letters[0] + letters[-1]} - _NO_NAMES:
                dotted = r"\.[ \-]?".join(re.escape(c.upper()) for c in ends)
                for found in re.finditer(rf"{dotted}(?!\w)\.?", text):
                    if not re.match(r"[\w.]", text[found.start() - 1 : found.start()]):
                        yield NameSpan(*found.span(), field, False)
