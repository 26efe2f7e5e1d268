"""The name words of a named field's value, and the forms of them to search for."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

from escalation.redact.damage import lost, misread
from escalation.redact.folding import LETTER, TOGETHER, fold, tokens


def listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


MOST_WORDS = 6
LONGEST = 80
# Words within names that do not identify a person.
_PARTICLES = listed(
    "de del della der den des di da das dos du do la le las los el al bin ibn bint ben van von "
    "vom zu zur zum ter ten y e i und and et of the mr mrs ms miss mx dr prof sir dame lady jr sr "
    "ii iii iv herr frau fr hr sra dott ing mag dipl phd md"
)
# Those that can also be a name, if first or last.
_ALSO_NAMES = listed("al ben van do ten miss lady des e i y")
# Words of the list that are mostly used as names.
_RATHER_NAMES = listed("smith jack nick rob ray pat ken don")
# Names that are also words, in any field.
_NAMES_TOO = listed(
    "amber angel april art august autumn banks bell bill bishop black brook brooks brown buck "
    "bush case cash chance chase chip christian church clay cliff cook crystal daisy dawn day "
    "dean drew duke earl faith field fields forest fox frank gene ginger glass grace grant gray "
    "green guy hall hand harmony heath heather hill hills holly hope hunt hunter iris ivy jade "
    "jasmine jay joy june king knight lake lane lily long love march mark marks mason may melody "
    "miles miller moon noble norm north olive page park parks pearl penny pierce pope price "
    "prince rain reed rice rich river rivers robin rod rose roses ruby rusty sandy sharp short "
    "sky small snow star stone strong sue summer sunny swan trace van violet wade ward waters way "
    "wells west white wild will winter wise wolf wood woods young"
)
_NAMES_FIELD = re.compile(
    r"name|surname|prenom|nom\b|apellido|cognome|nazwisko|imie|naam\b"
    r"|(?:^|[_.])(?:first|last|given|family|full|customer|client|person|who|contact|user|author"
    r"|sender|recipient|owner|holder|agent|guest|member|employee|patient|kunde)(?:[_.]?\d+)?$"
)
_NOT_OF_PEOPLE = re.compile(r"company|product|plan|brand|status|type|category|topic|city|country")
# Case endings of several languages, required after a stem that is too short to be certain.
_ENDINGS = listed(
    "a e i o u y s es is os us as ai ui n en an in on em im om am um m ou ov ova ove ovi ovu ovou "
    "owi owie owa iem iemu ie ii ia ej ego emu ie ina inu inou iny nak nek val vel ban ben hoz "
    "hez tol rol t et ot ka ko ku ce ni ne na lle lla lta ssa sta ksi yi nin nun nda dan den da "
    "de nen sen je ja ju ze zi se si cek chen li lar ler ek"
)  # fmt: skip
_SHORT_ENDINGS = listed("a e i o u y ou ie ii in an en on em im")
_LONG_ENDINGS = frozenset(ending for ending in _ENDINGS if len(ending) > 2)
_ENDINGS_OF_TWO = listed("s em om ov ova ovi ovu us")
_FOREIGN_VOWELS = "аяйьоеиыуюєіїσςαηοειυ"
SURE_STEM = 4
LONGEST_ENDING = 4


@cache
def english() -> frozenset[str]:
    """The more common English words."""
    text = files("escalation.redact").joinpath("words.txt").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(" ".join(lines).split()) - _RATHER_NAMES


@lru_cache(maxsize=4096)
def is_word(token: str) -> bool:
    """Whether a token is an English word, possibly with an ending."""
    words = english()
    if token in words:
        return True
    for ending in ("s", "es", "d", "ed", "ing", "ly", "er", "ers", "ness", "able", "al"):
        stem = token.removesuffix(ending)
        if stem != token and len(stem) > 2 and (stem in words or stem + "e" in words):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a name. ``doubtful``: it is also an ordinary word, so its context decides.

    ``stems``: pairs of a stem and the endings that may follow it; ``None`` allows any short ending.
    """

    spellings: tuple[str, ...]
    doubtful: bool
    together: bool
    stems: tuple[tuple[str, frozenset[str] | None], ...]


def is_name(value: str) -> bool:
    """Whether a value could be a person's name: at most `MOST_WORDS` words and no digits."""
    if len(value) > LONGEST or re.search(r"[\d@/:;|<>{}=%#_]", value):
        return False
    return 1 <= len(value.split()) <= MOST_WORDS and bool(re.search(r"[^\W\d_]{2}", value))


def of_people(placeholder: str) -> bool:
    """Whether a field holds people's names, judging by the field's name."""
    name = placeholder.strip("[]").lower()
    return bool(_NAMES_FIELD.search(name)) and not _NOT_OF_PEOPLE.search(name)


@lru_cache(maxsize=2048)
def words_of(value: str, people: bool) -> tuple[Word, ...]:
    """The words of a name, each searched for separately. ``people``: the result of `of_people`."""
    found: dict[tuple[str, ...], Word] = {}
    parts = [p for p in re.split(r"[\s,()\"]+", value) if re.search(r"[^\W\d_]", p)]
    for n, part in enumerate(parts):
        inner = [p for p in re.split(r"['’\u02bc.\-\u2010\u2011]+|(?<=[a-z])(?=[A-Z])", part) if p]
        edge = n in (0, len(parts) - 1)
        whole = _word([fold(p) for p in inner], people, edge and len(parts) > 1, len(parts) == 1)
        more = [_word([fold(p)], people, False, False) for p in inner if len(inner) > 1]
        more += [
            _word(["".join(map(fold, (*_particles(parts[:n]), *inner)))], people, False, False)
        ]
        more += _pieces_of_han(part) if len(parts) == 1 else []
        more += [_damaged(each) for each in dict.fromkeys((part, *inner)) if not each.isascii()]
        for word in (whole, *more):
            if word is not None:
                found.setdefault(word.spellings, word)
    return tuple(found.values())


def _particles(before: list[str]) -> list[str]:
    """The particles just before a word: handles join them, as in "delacruz"."""
    first = len(before)
    while first and fold(before[first - 1]) in _PARTICLES:
        first -= 1
    return before[first:]


def _word(inner: list[str], people: bool, edge: bool, alone: bool) -> Word | None:
    joined = "".join(inner)
    together = re.search(f"[{TOGETHER}]", joined) is not None
    if len(joined) < 2 or not tokens(joined):
        return None
    if joined in _PARTICLES and not alone and not (edge and joined in _ALSO_NAMES):
        return None
    spellings = dict.fromkeys(glue.join(inner) for glue in ("", "'", "-", " ", "."))
    if len(inner) == 1:
        spellings |= dict.fromkeys(v for v in variants(joined))
    doubtful = joined in _NAMES_TOO or (joined in _ALSO_NAMES and not alone)
    doubtful = doubtful or (people and joined in english())
    stems = [] if together else [s for w in spellings for s in _stems(w, doubtful)]
    return Word(tuple(spellings), doubtful, together, tuple(dict.fromkeys(stems)))


def _damaged(part: str) -> Word | None:
    """As it stands in texts whose encoding was mistaken."""
    whole = unicodedata.normalize("NFC", part)
    readings = [whole, whole.upper(), whole.lower(), whole.capitalize()]
    spelt = [fold(each) for reading in readings for each in misread(reading)]
    # "Man?" of a Manú asks about a man.
    spelt += [fold(each) for each in lost(whole) if not is_word(fold(each).strip("?_"))]
    found = dict.fromkeys(each for each in spelt if len(each) > 2 and tokens(each))
    return Word(tuple(found), False, False, ()) if found else None


def variants(word: str) -> list[str]:
    """Spellings of a folded word with ue for u and u for ue, except those that are English
    words."""
    found = []
    if len(word) >= 5:
        found = [re.sub("(?<=[aou])e", "", word), word.replace("aa", "a")]
        found += [word[: n + 1] + "e" + word[n + 1 :] for n, c in enumerate(word) if c in "aou"]
    return [each for each in found if each != word and len(each) > 3 and not is_word(each)]


def _stems(word: str, doubtful: bool) -> list[tuple[str, frozenset[str] | None]]:
    if doubtful:
        return [(word, _LONG_ENDINGS)]
    if len(word) < 3:
        return [(word, _ENDINGS_OF_TWO)]
    sure = len(word) >= SURE_STEM
    stems: list[tuple[str, frozenset[str] | None]] = [(word, None if sure else _ENDINGS)]
    shorter = word.rstrip("aeiouy" + _FOREIGN_VOWELS)
    shorter = word[:-1] if len(word) - len(shorter) > 1 else shorter
    if shorter != word:
        sure = len(shorter) >= SURE_STEM or not shorter.isascii()
        few = _ENDINGS if len(shorter) > 2 else _SHORT_ENDINGS
        stems.append((shorter, None if sure else few))
    if len(word) >= 5:
        if re.search(r"(?:[aiou]s|[οαη]σ)$", word):  # Jonas, Jono; Γιώργος, Γιώργου
            stems.append((word[:-2], _ENDINGS if word.isascii() else None))
        if re.search(r"e[lkcnr]$", word):  # Pavel, Pavla
            stems.append((word[:-2] + word[-1], _ENDINGS - {"s"}))
        if word.endswith("nen"):  # Virtanen, Virtasen
            stems.append((word[:-3] + "s", None))
        if re.search(r"(?:kk|pp|tt)[aeiouy]$", word):  # Matti, Matin
            ends = ("n", "lle", "lla", "lta", "ssa", "sta")
            stems.append((word[:-2], frozenset(word[-1] + end for end in ends)))
    return stems


def _pieces_of_han(value: str) -> list[Word]:
    """The parts of a family and a given name written together: 田中太郎, 김민수."""
    if not re.fullmatch("[\u3400-\u9fff\uac00-\ud7af]{3,4}", value):
        return []
    pieces = [value[-2:], value[:2]] if len(value) == 4 else [value[-2:]]
    return [Word((fold(piece),), False, True, ()) for piece in pieces]


INITIAL = re.compile(LETTER)


def initials(value: str) -> str:
    """The first letters of a name's words."""
    parts = [
        fold(p) for p in re.split(r"[\s.\-\u2010\u2011]+", value) if p and fold(p) not in _PARTICLES
    ]
    return "".join(p[0] for p in parts if p and INITIAL.match(p[0]))
