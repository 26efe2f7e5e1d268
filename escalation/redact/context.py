"""Whether a word that is also a name names somebody where it stands: Will, May, Rose, Stone.

By its case and by what stands before and behind it. In doubt a capital within a sentence is a name.
"""

from __future__ import annotations

import re

BEFORE, BEHIND = 80, 60
_TAG = re.compile(r"<[^<>]*>?|&nbsp;|[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_TITLE = re.compile(
    r"(?:\b(?:m(?:rs?|s|x|iss|me|lle|evr|essrs)|dr|prof(?:essor)?|sir|madam|lady|lord|herrn?|frau|fr|hr"
    r"|sr(?:ta|a)?|se[nñ]or(?:a|ita)?|monsieur|madame|sig(?:nora?)?|dott|pana?|pan[iíu]|dhr|mw"
    r"|famil(?:y|ie)|user(?:name)?|login)\.?\s*|@)$",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\b(?:dear|hi+|hello|hey|hallo|hola|bonjour|ciao|liebe[rs]?|welcome|attn|(?:guten tag"
    r"|good (?:morning|afternoon|evening|day)))\W{1,3}$",
    re.IGNORECASE,
)
_CALLED = re.compile(
    r"\b(?:name\s*(?:is|:|=|was)|name['’]?s|named|called|signed|sincerely|regards|cheers|thanks"
    r"|thank you|thx|yours|wishes|greetings|love|best|truly|faithfully|gr[uü](?:ß|ss)e|sender|customer"
    r"|client|contact|to|from|cc|attention)\W*$",
    re.IGNORECASE,
)
_SURELY_CALLED = re.compile(
    r"\b(?:name\s*(?:is|:|=|was)|name['’]?s|named|called|signed|sincerely|regards|cheers|thanks"
    r"|thank you|thx|yours|wishes|greetings|truly|faithfully|i\s?['’]?a?m|it['’]?s|it is|this is)\W{1,4}$",
    re.IGNORECASE,
)
_HERE = re.compile(r"\s+(?:here|again|speaking|calling|writing)\b", re.IGNORECASE)
_INTRODUCED = re.compile(
    r"(?:\b(?:it['’]?s|it is|this is|i['’]?\s?a?m|hi|hello|hey)\W{1,2}|^\W*)$", re.I
)
_END = re.compile(r"\W*$|\W*\n|\s*[,!.?;)\"”]")
_ITS_OWN_LINE = re.compile(r"[^\w\n]*(?:\n|$)")
_STARTS = re.compile(r"(?:^|[.!?…:;•*>|(\[\n\"“”„]|\s[-–—])[\s\"'“”‘„(*_]*$")
_LABEL = re.compile(
    r"(?:name|customer|client|contact|sender|from|to|cc|attn|re|kunde|person|holder|given)[\"']?"
    r"\s*[:=]\s*[\"']?$",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\s+(?:(?:is|was|has|had|does|did|said|says|wrote|writes|called|calls|asked|asks|told|tells|wants"
    r"|wanted|lives|lived|lost|never|just|also|tried|got|paid|bought)\b|and (?:I|me|my)\b)"
)
_PRONOUN = re.compile(
    r"\s+(?:i|you|we|they|he|she|it|this|that|these|those|there|the|a|an|my|your|our|his|her|their|its"
    r"|any|some|not|be|have|please|all|one|someone|anyone)\b",
    re.IGNORECASE,
)
_CAPITAL = re.compile(r"\s+(?!I\b)[A-ZÀ-Þ][a-zß-ÿ]+")
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_MONTH = frozenset("march april may june august".split())
_ANY_MONTH = rf"(?:{_MONTHS}|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"
_MONTH_BEFORE = re.compile(
    rf"(?:\d(?:st|nd|rd|th)?(?: of)?|\b(?:in|on|since|until|till?|by|of|during|before|after|this|last|next"
    rf"|early|mid|late|every|each|end|beginning|through|between|month)"
    rf"|\b{_ANY_MONTH}(?:\s*(?:and|to|or|through|until))?)[\s.,\-/–&]*$",
    re.IGNORECASE,
)
_MONTH_BEHIND = re.compile(
    rf"[\s.,\-/]*\d|['’]\d|\s*(?:and|to|or|through|until|till|-|–|/|,|&)\s*(?:\d|{_ANY_MONTH}\b)"
    r"|\s+(?:bank holiday|day\b|bill\b|invoice\b|statement\b)",
    re.IGNORECASE,
)
# Such a word at a sentence's start asks or allows; it is followed by whom.
_ASKING = frozenset(
    "will may might can could would should shall must do does did have has is are was were an a the"
    " and or but if so in on at as to for from by of am".split()
)  # fmt: skip


def names_someone(text: str, start: int, end: int) -> bool:
    before = _TAG.sub("", text[max(0, start - BEFORE) : start])
    behind = _TAG.sub("", text[end : end + BEHIND])
    if start > BEFORE and "\n" not in before:
        before = "x" + before  # what is cut off is no beginning
    word = _TAG.sub("", text[start:end])
    shouted = word.isupper() and _shouts(before, behind)
    small = word.islower() or shouted
    asking = word.lower() in _ASKING
    followed = bool(_PRONOUN.match(behind))
    if not re.search(r"\w", before) and not re.search(r"\w", behind):
        return True
    if _TITLE.search(before):
        return not (asking and followed)
    if word.lower() in _MONTH and _is_month(before, behind):
        return False
    if _alone(before, behind, small):
        return True
    if _GREETING.search(before):
        return bool(_END.match(behind)) if small else not (asking and followed)
    if _SURELY_CALLED.search(before) and _END.match(behind):
        return not small or not re.search(r"\b(?:it|this|i)\W*\w*\W*$", before, re.I)
    if _HERE.match(behind) and _INTRODUCED.search(before):
        return True
    if small:
        return False
    if re.match(r"['’]s\b", behind) or _LABEL.search(before):
        return True
    if _begins(before):
        return _begins_with_name(behind, asking)
    return not (asking and (followed or _headline(before, behind)))


def _is_month(before: str, behind: str) -> bool:
    if re.search(r"\b(?:from|to)\s*$", before, re.IGNORECASE):
        return bool(
            _MONTH_BEHIND.match(behind) or re.search(rf"{_ANY_MONTH}|\d", before + behind, re.I)
        )
    return bool(_MONTH_BEFORE.search(before) or _MONTH_BEHIND.match(behind))


def _alone(before: str, behind: str, small: bool) -> bool:
    """Whether it has a line for itself, or ends the text behind a comma or a full stop."""
    if re.search(r"(?:^|\n)[^\w\n]*$", before) and _ITS_OWN_LINE.match(behind):
        return True
    last = not re.search(r"\w", behind)
    return last and not small and bool(re.search(r"[,.!?\-–—\n]\s*$", before))


def _shouts(before: str, behind: str) -> bool:
    around = re.findall(r"[^\W\d_]{2,}", before)[-2:] + re.findall(r"[^\W\d_]{2,}", behind)[:2]
    return bool(around) and all(each.isupper() for each in around)


def _begins(before: str) -> bool:
    """Whether a sentence begins here; a line that is only wrapped goes on."""
    if not _STARTS.search(before):
        return False
    line = re.search(r"([^\n]*[^\W\d_],?)[ \t]*\n[ \t]*$", before)
    return not (line and len(line[1]) > 30)


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
