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

NOBODY = """\
I may need to return the shoes. May I send them back without the box?
Will you deliver on Saturday? It will not fit through the door otherwise.
The roses arrived on 3 May and half of them were dead. Rose petals everywhere.
A stone cracked my windscreen. Stone chips are not covered, I was told.
My order from May has not come. Orders placed in May took a month.
The stone will not fit, so may I have a longer one?
Prices rose in May and again in June. Will they rise once more?
I ordered a rose gold ring with a white stone; it turned green after long wear.
Dear Sir or Madam, will the refund be on my May statement?
Hello, may I ask how long it will take?
Hi, will there be a delay?
Hi! Will my card work abroad?
Thanks! Will do.
Thank you, I will wait until the end of May.
The price rose. It rose again on May 5th. It may rise more.
Long story short: the order never came.
Please cancel order 4711. The order was placed by mistake.
As a customer of many years I expect more. Customer service will not answer.
Do you have this in brown? Do I pay for returns?
An hour ago I sent an e-mail. An answer would be nice.
Young people will not wait that long.
I was charged twice in April and once in May.
From May to July I am abroad; will my mail be kept?
Can you mark my parcel as fragile? Mark it in red, please.
I hope the bill is wrong. Hope to hear from you soon.
The bill says 40 euros. Bill me later, please.
Grace periods: how long are they? Is there a grace period on my card?
The king size bed is too long. King size or queen size?
Brown rice, white wine and a green tea were in the box. Brown paper, no tape.
We were promised delivery by 12 May, then by the end of May, then in June.
my order will be late i think, may i cancel
will you pls answer, i will not wait any longer
may i get a refund for the stone that fell out of the ring
I WILL NOT PAY FOR THIS. MAY I REMIND YOU OF MY RIGHTS?
THE STONE FELL OUT OF THE RING. WILL YOU REPLACE IT?
The last will and testament of my aunt is in the safe.
Against my will I was moved to another tariff.
The rose bush was dry. We planted the rose in the garden.
Set in stone? Nothing is set in stone, as they say.
It was a stone's throw from the shop.
May is fine for me, June is not.
Is 15 May or 16 May better? May 15 suits me.
Your offer of May 2024 says otherwise.
Since May nothing has worked. Before May it was fine.
I saw the offer in May's newsletter.
The Rolling Stones tickets were never sent.
She rose early, and so did the costs.
A long time ago, a young man sold me this phone.
Do not call me again. Do write.
The contract ends in May, so I may move in June, or it will be July.
We will, if we may, pick it up ourselves.
Whether it will rain or not, the stone path must be laid.
Where will I find the tracking number? When will it arrive? Why will nobody help?
How may I change my PIN? What may I do?
Yes, I will. No, I will not. Maybe I will.
Roses are red. Stones are grey. Orders are late.
The colour is called dusty rose; it may fade.
I'd like to know if rose water is in stock.
The kidney stone was painful, the insurance will pay.
Stone cold, the pizza was. Will never order again.
Long delays, no answers. May have to go to court.
1. Will the parcel be insured? 2. May I pay by card? 3. Do you ship abroad?
- will it fit
- may it be washed
- stone or wood
Question: will the warranty hold? Answer: it may.
Subject: Order of May 3
Subject: Will my order be late?
It is long. It is green. It is young. It is white. This is brown.
i am young and i will learn, this is long but may help
PS: Will you tell me when?
P.S. May I keep the gift?
In May we ordered stone tiles, in June rose bushes; neither will come before August, they say.
The customer is king, isn't he? I am a customer, not a king.
Will someone please read this? Will anyone? May as well talk to a stone.
Good morning, will the shop be open on 1 May?
Good evening. May we come by at 8?
I love the rose, the daisy and the lily, and I may order the violet too.
It costs 3 pounds a stone. He lost a stone in weight.
The hope was that you would mark it down. I mark all bills.
I am sure it will be fine. We may be wrong.
Let me know if it may be possible. I will be at home on Thursday.
That will do. That may be. That rose again.
Would a young dog like this? How long is the lead?
My long coat is brown. The white one is too long.
There is an error. There may be an error. There will be an error.
Should I do it again? I do not know what to do.
Can I do an exchange? What an odd rule.
I paid on 31 May 2025 at 10:15 and the money will not be back before 5 June.
What will happen on the first of May?
Nothing will grow; the rose has black spots. Will fertiliser help?
The stone in my shoe. The rose in my hand. The will in my drawer.
Please tell me whether you will or may answer at all.
Delivery was due early May or late May, and mid May at worst.
This May was cold. Next May will be warmer. Every May the same.
The May issue of the magazine is missing. My May invoice is wrong.
The new May tariff is dearer. I want the May discount.
Where I live, stone houses are cold. They will always be.
We asked for a rose window. It will be made of stone and glass.
Yesterday a customer before me took the last one. Will more come?
My phone fell on stone. Will the insurance cover it? I may have the form.
Our wedding is in May, and the rose arrangement will be needed before.
"""
