"""How people write names in letters, and letters in which nobody is named."""

from __future__ import annotations

import quopri
import unicodedata
from collections.abc import Callable
from html import escape
from urllib.parse import quote

FIRST = [
    "Jane", "John", "Anna", "María", "Zoë", "Jürgen", "Renée", "Li", "Kwame", "Olga",
    "Seán", "Björn", "Aisha", "Tomáš", "Ana", "Jean-Luc", "Eva", "Mikko", "Ines", "Łukasz",
]  # fmt: skip
LAST = [
    "Smith", "Müller", "O'Brien", "Smith-Jones", "García", "Novák", "Nguyễn", "Virtanen", "Øster",
    "McDonald", "van der Berg", "de la Cruz", "Kowalski", "Johnson", "Patel", "Ivanova", "Baker",
    "Weiß", "Lee", "Thompson",
]  # fmt: skip
# Of customers whose names are words.
WORDS_FIRST = ["Will", "May", "Rose", "Mark", "Grace", "An", "Hope", "Bill"]
WORDS_LAST = ["Stone", "Long", "Young", "Brown", "King", "Do", "Rose", "May"]

Spelling = Callable[[str, str], str]


def plain(text: str) -> str:
    marks = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("Ø", "O"))
    marks = marks.replace("ł", "l").replace("Ł", "L").replace("ß", "ss")
    return "".join(c for c in marks if not unicodedata.combining(c))


def handle(text: str) -> str:
    return "".join(c for c in plain(text) if c.isalnum())


def wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


SPELLINGS: dict[str, Spelling] = {
    "first name": lambda f, s: f"Hello, it's {f} again about my card.",
    "title": lambda f, s: f"Please tell Mrs {s} that the parcel came.",
    "initial": lambda f, s: f"The account is held by {f[0]}. {s}, as before.",
    "middle initial": lambda f, s: f"My full name is {f} A. {s} and I moved.",
    "tags": lambda f, s: f"<p>I am {f[:1]}<b>{f[1:]}</b> {s[:2]}<i>{s[2:]}</i>, hello</p>",
    "surname first": lambda f, s: f"Booked for: {s}, {f}; two nights",
    "capitals": lambda f, s: f"SENT BY {f.upper()} {s.upper()} LAST WEEK",
    "small letters": lambda f, s: f"hi this is {f.lower()} {s.lower()} pls help",
    "possessive": lambda f, s: f"It was {f}'s order, and {s}\u2019s bill.",
    "soft hyphens": lambda f, s: f"Dear team, {chr(0xAD).join(f)} {chr(0x200B).join(s)} here.",
    "entities": lambda f, s: f"I am {entities(f)}&nbsp;{entities(s)}, a customer.",
    "handle": lambda f, s: f"Follow @{handle(f)}{handle(s)}87 or mail {handle(f).lower()}_x.",
}


def entities(text: str) -> str:
    return "".join(c if c.isascii() else f"&#{ord(c)};" for c in escape(text))


HELD_BACK: dict[str, Spelling] = {
    "signature": lambda f, s: f"When does it arrive?\n\nThanks,\n{f}\n",
    "line end": lambda f, s: f"I would like to add that {f}\n{s} is on the contract.",
    "mail": lambda f, s: f"Write to {handle(f).lower()}.{handle(s).lower()}@example.org, please.",
    "hyphen at line end": lambda f, s: f"the ticket of {f[:2]}-\n{f[2:]} {s[:3]}-\n{s[3:]} is lost",
    "quoted-printable": lambda f, s: (
        quopri.encodestring(f"Gr\u00fc\u00dfe von {f} {s}, bis bald".encode())
        .decode()
        .replace(s[-2:], "=\n" + s[-2:])
    ),
    "percent": lambda f, s: f"see ?first={quote(f)}&last={quote(s)}&x=1",
    "no accents": lambda f, s: f"my name: {plain(f)} {plain(s)}",
    "decomposed": lambda f, s: unicodedata.normalize("NFD", f"Ask {f} or the {s} family"),
    "wide": lambda f, s: f"Customer {wide(plain(f))}\u3000{wide(plain(s))} wrote",
    "spaced": lambda f, s: f"It is spelled {' '.join(plain(f))} and then the rest.",
    "genitive": lambda f, s: f"Das ist {f}s Paket und {s}s Rechnung.",
    "spans": lambda f, s: f"<td><span>{f}</span><span>{s}</span></td>",
    "middle name": lambda f, s: f"Kindly call {f} Katharina {s} tomorrow",
    "snake": lambda f, s: f"login {handle(f).lower()}_{handle(s).lower()}_1984 is locked",
    "initial behind": lambda f, s: f"Greetings from {f} {s[0].upper()}.",
    "small surname": lambda f, s: f"this is mr {s.lower()} speaking",
    "key": lambda f, s: f'{{"holder":"{s}","given":"{f}"}}',
    "slash": lambda f, s: f"re: {s.upper()}/{f.upper()} MR",
    "camel": lambda f, s: f"user {handle(f).capitalize()}{handle(s).capitalize()} cannot log in",
    "bold": lambda f, s: f"**{f}** __{s}__ needs an answer",
    "initial and name together": lambda f, s: (
        f"my user is {handle(f)[0].lower()}{handle(s).lower()}"
    ),
    "bidi": lambda f, s: f"from \u202a{f}\u202c \u2067{s}\u2069!",
    "slavic": lambda f, s: f"Psal jsem {f}ovi a panu {s}ovi.",
    "both quoted": lambda f, s: f"> \u201c{f}\u201d \u2018{s}\u2019 said so",
}
