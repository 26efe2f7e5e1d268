"""Decides from context whether a word that is also a name (Will, May, Rose) names a person.

It uses the word's case and the text around it. In doubt, a capitalised word within a sentence is a
name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from escalation.redact.names import listed

BEFORE, BEHIND, LONG_LINE = 32, 40, 30
_TAG = re.compile(r"<[^<>]*>?|&nbsp;|[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_TITLES = listed(
    "m mr mrs ms mx miss mme mlle mevr messrs dr prof professor sir madam lady lord herr herrn "
    "frau fr hr sr sra srta señor senor señora senora señorita senorita monsieur madame sig "
    "signor signora dott pan pana pani paní panu dhr mw family familie user username login"
)
# A word next to a digit or an underscore is part of a handle, not of prose.
_HANDLE_BEFORE = re.compile(r"(?:\w_|\d)$")
_GREETING = re.compile(
    r"\b(?:dear|hi+|hello|hey|hallo|hola|bonjour|ciao|liebe[rs]?|welcome|attn|(?:guten tag"
    r"|good (?:morning|afternoon|evening|day)))\W{1,3}$",
    re.IGNORECASE,
)
_CALLED = re.compile(
    r"\b(?:name\s*(?:is|:|=|was)|name['’]?s|named|called|signed|sincerely|regards|cheers|thanks"
    r"|thank you|thx|yours|wishes|greetings|truly|faithfully|i\s?['’]?a?m|it['’]?s|it is|this is)"
    r"\W{1,4}$",
    re.IGNORECASE,
)
_IT_IS = re.compile(r"\b(?:i\s?['’]?a?m|it['’]?s|it is|this is)\W{1,4}$", re.IGNORECASE)
# What may follow a lower-case name; without it, a lower-case word is a name only after a title.
_MAYBE = re.compile(
    r"\W*$|\W*\n|\s*[,!.?;)\"”<_\d]|\s+(?:here|again|speaking|calling|writing)\b", re.I
)
_HERE = re.compile(r"\s+(?:here|again|speaking|calling|writing)\b", re.IGNORECASE)
_INTRODUCED = re.compile(
    r"(?:\b(?:it['’]?s|it is|this is|i['’]?\s?a?m|hi|hello|hey)\W{1,2}|^\W*)$", re.I
)
_END = re.compile(r"\W*$|\W*\n|\s*[,!.?;)\"”]")
_ITS_OWN_LINE = re.compile(r"[^\w\n]*(?:\n|$)")
_STARTS = re.compile(r"(?:^|[.!?…:;•*>|(\[\n\"“”„]|\s[-–—])[\s\"'“”\u2018„(*_]*$")
_LABEL = re.compile(
    r"(?:name|customer|client|contact|sender|from|to|cc|attn|re|kunde|person|holder|given)[\"']?"
    r"\s*[:=]\s*[\"']?$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\b(?:the|an?|this|that|some|any|every|no) $", re.IGNORECASE)
_VERB = re.compile(
    r"\s+(?:(?:is|was|has|had|does|did|said|says|wrote|writes|called|calls|asked|asks|told|tells|wants"
    r"|wanted|lives|lived|lost|tried|got|paid|bought)\b|and (?:I|me|my)\b)"
)
_PRONOUN = re.compile(
    r"\s+(?:i|you|we|they|he|she|it|this|that|these|those|there|the|a|an|my|your|our|his|her|their|its"
    r"|any|some|not|be|have|please|all|one|someone|anyone)\b",
    re.IGNORECASE,
)
_CAPITAL = re.compile(r"\s+(?!I\b)[A-ZÀ-Þ][a-zß-ÿ]+")
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_MONTH = listed("march april may june august")
_ANY_MONTH = rf"(?:{_MONTHS}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"
_MONTH_BEFORE = re.compile(
    r"(?:\d(?:st|nd|rd|th)?(?: of)?|\b(?:the|my|your|our|new|old|a|in|on|since|until|till?|by|of"
    r"|during|before|after|this|last|next"
    rf"|early|mid|late|every|each|end|beginning|through|between|month)"
    rf"|\b{_ANY_MONTH}(?:\s*(?:and|to|or|through|until))?)[\s.,\-/–&]*$",
    re.IGNORECASE,
)
_MONTH_BEHIND = re.compile(
    rf"[\s.,\-/]*\d|['’]\d|\s*(?:and|to|or|through|until|till|-|–|/|,|&)\s*(?:\d|{_ANY_MONTH}\b)"
    r"|\s+(?:bank holiday|day\b|bill\b|invoice\b|statement\b)",
    re.IGNORECASE,
)
# Words that begin a question or a clause if a pronoun follows: "Will you".
_ASKING = listed(
    "will may might can could would should shall must do does did have has is are was were an a "
    "the and or but if so in on at as to for from by of am"
)  # fmt: skip


def asks(text: str, start: int, end: int) -> bool:
    """Whether the word begins a question: "May I", "Will the"."""
    return text[start:end].lower() in _ASKING and bool(_PRONOUN.match(text, end))


def names_someone(text: str, start: int, end: int) -> bool:
    before, word = text[max(0, start - BEFORE) : start], text[start:end]
    behind = text[end : end + BEHIND]
    near = _title(before) or _HANDLE_BEFORE.search(before[-2:])
    if word.islower() and not near and not _MAYBE.match(behind):
        return False
    if start > BEFORE and "\n" not in before:
        before = "x" + before  # the cut is not the beginning of the text
    return _names(before, word, behind, _wrapped(text, start))


def _title(before: str) -> str:
    """The title just before the word, in lower case, or "@"; otherwise an empty string."""
    near = before.rstrip(" .\u00a0\n")
    if near.endswith("@"):
        return "@"
    first = len(near)
    while first and near[first - 1].isalpha():
        first -= 1
    last = near[first:].lower()
    return last if last in _TITLES and before[-1:] in " .\u00a0\n" else ""


def _wrapped(text: str, start: int) -> bool:
    """Whether the line break before the word only wraps a long line."""
    head = text[max(0, start - 3 * LONG_LINE) : start].rstrip(" \t")
    line = head[:-1].rsplit("\n", 1)[-1].rstrip()
    return head.endswith("\n") and len(line) > LONG_LINE and (line[-1].isalpha() or line[-1] == ",")


@lru_cache(maxsize=8192)
def _names(before: str, word: str, behind: str, wrapped: bool) -> bool:
    before, word, behind = (_TAG.sub("", each) for each in (before, word, behind))
    small = word.islower() or (word.isupper() and _shouts(before, behind))
    asking = word.lower() in _ASKING
    followed = bool(_PRONOUN.match(behind))
    if title := _title(before):
        return not (asking and followed and (small or title == "miss"))
    month = word.lower() in _MONTH
    if _HANDLE_BEFORE.search(before) or re.match(r"_\w" if month else r"_\w|\d", behind):
        return True
    if month and _is_month(before, behind):
        return False
    if _alone(before, behind, small) or (_HERE.match(behind) and _INTRODUCED.search(before)):
        return True
    if _GREETING.search(before):
        return bool(_END.match(behind)) if small else not (asking and followed)
    if _CALLED.search(before) and _END.match(behind):
        return not small or not _IT_IS.search(before)
    if small:
        return False
    return _names_by_capital(before, behind, asking, wrapped)


def _names_by_capital(before: str, behind: str, asking: bool, wrapped: bool) -> bool:
    if re.match(r"['’]s\b", behind) or _LABEL.search(before):
        return True
    if _ARTICLE.search(before):
        return bool(re.match(r"\s+(?:family|household|account)", behind))
    if _STARTS.search(before) and not wrapped:
        return _begins_with_name(behind, asking)
    return not (asking and (_PRONOUN.match(behind) or _headline(before, behind)))


def _is_month(before: str, behind: str) -> bool:
    if _MONTH_BEHIND.match(behind):
        return True
    if not re.search(r"\b(?:from|to)\s*$", before, re.IGNORECASE) and _MONTH_BEFORE.search(before):
        return True
    # Another month or a digit nearby suggests a month, except in "I am May, and I ordered in June".
    near = re.search(rf"\b(?:{_MONTHS})\b|\d", before + behind, re.IGNORECASE)
    return bool(near) and not _CALLED.search(before) and not _GREETING.search(before)


def _alone(before: str, behind: str, small: bool) -> bool:
    """Whether the word is the whole text, a line of its own, or the last word after a comma."""
    if not re.search(r"\w", before + behind):
        return True
    if re.search(r"(?:^|\n)[^\w\n]*$", before) and _ITS_OWN_LINE.match(behind):
        return True
    last = not re.search(r"\w", behind)
    return last and not small and bool(re.search(r"[,.!?\-–—\n]\s*$", before))


def _shouts(before: str, behind: str) -> bool:
    around = re.findall(r"[^\W\d_]{2,}", before)[-2:] + re.findall(r"[^\W\d_]{2,}", behind)[:2]
    return bool(around) and all(each.isupper() for each in around)


def _begins_with_name(behind: str, asking: bool) -> bool:
    if (
        re.match(r"\s*(?:,|$|\n|[!)\"”]|\s[-–—])", behind)
        or _HERE.match(behind)
        or _VERB.match(behind)
    ):
        return True
    if not _CAPITAL.match(behind):
        return False
    return not (asking and re.match(r"[^.!\n]*(?:\?|$)", behind))


def _headline(before: str, behind: str) -> bool:
    last = re.search(r"([^\W\d_]+)\W*$", before)
    first = re.match(r"\W*([^\W\d_]+)", behind)
    return bool(last and first and last[1][0].isupper() and first[1][0].isupper())
