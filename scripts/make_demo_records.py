"""Writes the demo's records: a CRM export of 3,000 tickets, and the truth about each.

The questions are CLINC150's test questions (in scope and out of it), the customers invented:
e-mail addresses at the example domains, phone numbers from the ranges that regulators reserve for
fiction. Twelve records are broken on purpose, two of each kind an export breaks in. The same seed
gives the same bytes. `truth.csv` is for measuring; the job never reads it.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from train_demo_model.data import Question, split

OUTPUT = Path(__file__).resolve().parents[1] / "configs" / "demo"

TOTAL = 3000
BIRTHDAYS = 300
RENEWALS = 75
OUT_OF_SCOPE = 320
GREETED = 60
FIRST_DAY, DAYS = date(2025, 3, 3), 90
# So that a demo of the first records shows the ordinary day.
FIRST_MALFORMED = 100

_CUSTOMER = "first_name last_name email phone region plan plan_value"
COLUMNS = ["ticket_id", "kind", "created_at", *_CUSTOMER.split(), "topic", "message"]
TRUTH_COLUMNS = ["ticket_id", "line", "intent", "domain", "in_scope", "expected_route", "malformed"]

_MALFORMED = "empty_id duplicate_id too_few_columns too_many_columns not_utf8 too_long"

# By region, parted by spaces.
FIRST_NAMES = {
    "EU": "Anna Jürgen Chloé Matteo Sofía Lukas Zoë Pieter Ingrid Noémie Stefan Marta",
    "US": "Ashley Tyler Maria Jordan Denise Brandon Keisha Wyatt Hannah Marcus Emily Luis",
    "UK": "Oliver Poppy Gareth Siobhan Callum Imogen Rhys Harriet Nigel Fiona Amir Isla",
    "APAC": "Mei Haruto Priya Arjun Yuna Wei Aroha Jack Siti Linh Kenji Ananya",
    "LATAM": "Camila José Valentina Thiago Lucía Mateo Beatriz Andrés Renata João Inés Diego",
}
LAST_NAMES = {
    "EU": "Müller Lefèvre Rossi Novák García Jansen Lindqvist Weber Moreau Kowalska",
    "US": "Johnson Ramirez Walker Nguyen Cooper Bennett Washington Reed Flores Murphy",
    "UK": "Davies Patel Thompson Hughes MacLeod Clarke Whitfield Ahmed O'Brien Shaw",
    "APAC": "Chen Tanaka Sharma Kim Nguyen Singh Wilson Rahman Lim Sato",
    "LATAM": "Silva Fernández López Oliveira Rojas Peña Castro Gómez Duarte Vargas",
}
# Each `#` is a digit. Reserved for fiction by the North American numbering plan (555-01xx), Ofcom,
# Bundesnetzagentur, ARCEP and ACMA.
PHONES = {
    "EU": ("+49 30 23125 ###", "030 23125-###", "+33 6 39 98 ## ##", "01 99 00 ## ##"),
    "US": ("(202) 555-01##", "+1 415-555-01##", "312.555.01##", "1-206-555-01##"),
    "UK": ("020 7946 0###", "+44 7700 900###", "(01632) 960###", "+44 20 7946 0###"),
    "APAC": ("+61 2 5550 ####", "(02) 7010 ####", "02 5550 ####"),
    "LATAM": ("+1 787-555-01##", "(809) 555-01##", "+1 939 555 01##"),
}
# Name, share of the customers, prices in USD a year.
PLANS = (
    ("starter", 50, (120, 180, 240)),
    ("team", 30, (600, 900, 1200, 2400)),
    ("business", 15, (4800, 7200, 9600, 12000)),
    ("enterprise", 5, (18000, 24000, 36000, 48000)),
)

BIRTHDAY_NOTES = (
    "birthday today",
    "auto: birthday reminder",
    "send the usual card",
    "birthday, called last year and was pleased",
)
GREETINGS = (
    "hi, this is {first}. ",
    "hello, this is {first} {last}. ",
    "hi, i'm {first}. ",
    "hello, my email is {email}. ",
)

HIGH_STAKES = {
    "legal": (
        "my lawyer says you have to hand over every email you hold about me, when will i get them",
        "i was served with a summons that names your company, am i obliged to appear in court",
        "your technician broke my window and i am going to sue, who do i address the claim to",
        "the police asked me for the invoices of my account, may i refuse to give them",
        "my landlord is evicting me because of a payment you booked too late, are you liable",
        "i signed the contract when i was seventeen, is it binding or can i get out of it",
        "my ex husband opened an account in my name, what should i put in the affidavit",
        "you used my photograph in an advert without asking me, i want damages and an apology",
    ),
    "health": (
        "i have chest pain since this morning and my left arm is numb, should i wait or call",
        "can i take ibuprofen together with the blood thinner that i got after my stroke",
        "my two year old has swallowed a button battery about an hour ago, what do i do",
        "i am twelve weeks pregnant and bleeding, is that normal",
        "i stopped taking my antidepressants last week and now i cannot stop shaking",
        "my blood sugar is 380 and the insulin has not come yet, how much of the old one can i use",
        "since your supplement arrived i have had a rash all over and trouble breathing",
        "i feel so low that i have not got out of bed for two weeks, what kind of help do i need",
    ),
    "finance": (
        "should i move my pension into the growth fund before i retire in two years",
        "i inherited 200,000 dollars, do i pay off the mortgage or put it into shares",
        "is it a good idea to take a second mortgage to buy into my brother's restaurant",
        "i cannot pay my loan any more, is it better to declare bankruptcy or to settle",
        "how much of my savings would you put into bitcoin at my age",
        "my adviser wants me to cash in my life insurance for an annuity, is that sensible",
        "do i have to declare the house that i sold abroad, and how do i keep the tax on it low",
        "i lost half of my retirement money in your fund, should i sell now or hold on",
    ),
}

_THREAD = (
    "Thanks for the quick answer, I am adding the earlier mails below so that you have it all.",
    "I called on Monday and was told that somebody would get back to me within two days.",
    "Nobody did, so I wrote again on Thursday and got the automatic reply with the ticket number.",
    "Please see the screenshots that I attached to the first mail, the second one matters most.",
    "Could you also confirm that the address on the account is still the one that we gave you?",
    "I will be travelling from Wednesday on, so the mobile number is the better one to reach me.",
)
_THREAD_WORDS = 900


@dataclass(slots=True)
class Ticket:
    """One record to be: its fields by column, and what is true of it."""

    fields: dict[str, str]
    intent: str = ""
    domain: str = ""
    in_scope: str = ""
    route: str = "local"
    malformed: str = ""


def _ascii(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if c.isascii() and c.isalnum()).lower()


def _customer(rng: random.Random) -> dict[str, str]:
    region = rng.choices(tuple(PHONES), weights=(30, 35, 15, 12, 8))[0]
    first = rng.choice(FIRST_NAMES[region].split())
    last = rng.choice(LAST_NAMES[region].split())
    host = rng.choice(("example.com", "example.org", "example.net"))
    mailbox = rng.choice(("{0}.{1}", "{0}{1}", "{0}_{1}", "{0}.{1}{2}"))
    name, _, prices = rng.choices(PLANS, weights=[plan[1] for plan in PLANS])[0]
    pattern = rng.choice(PHONES[region])
    return {
        "first_name": first,
        "last_name": last,
        "email": mailbox.format(_ascii(first), _ascii(last), rng.randrange(10, 99)) + "@" + host,
        "phone": "".join(str(rng.randrange(10)) if c == "#" else c for c in pattern),
        "region": region,
        "plan": name,
        "plan_value": f"{rng.choice(prices):.2f}",
    }


def _ticket(rng: random.Random, kind: str, message: str, topic: str = "general") -> Ticket:
    return Ticket({"kind": kind, **_customer(rng), "topic": topic, "message": message})


def _asking(rng: random.Random, kind: str, question: Question) -> Ticket:
    ticket = _ticket(rng, kind, question.text)
    ticket.intent, ticket.domain = question.intent, question.domain
    ticket.in_scope = "false" if question.intent == "oos" else "true"
    return ticket


def _tickets(rng: random.Random) -> list[Ticket]:
    """Every ticket in its final order, none of them broken yet."""
    questions = split("test")
    rng.shuffle(questions)
    money = [q for q in questions if q.domain in ("banking", "credit_cards")][:RENEWALS]
    tickets = [_asking(rng, "renewal", question) for question in money]
    for domain, texts in HIGH_STAKES.items():
        for text in texts:
            ticket = _ticket(rng, "message", text, topic=domain)
            ticket.domain, ticket.in_scope, ticket.route = domain, "false", "closed"
            tickets.append(ticket)
    for _ in range(BIRTHDAYS):
        note = rng.choice(BIRTHDAY_NOTES) if rng.random() < 0.3 else ""
        ticket = _ticket(rng, "birthday", note)
        ticket.route = "template"
        tickets.append(ticket)
    used = set(money)
    asked = rng.sample(split("oos_test"), OUT_OF_SCOPE)
    rest = (question for question in questions if question not in used)
    asked += [next(rest) for _ in range(TOTAL - len(tickets) - OUT_OF_SCOPE)]
    messages = [_asking(rng, "message", question) for question in asked]
    for ticket in rng.sample(messages, GREETED):
        _greet(rng, ticket)
    tickets += messages
    rng.shuffle(tickets)
    return tickets


def _greet(rng: random.Random, ticket: Ticket) -> None:
    values = ticket.fields
    greeting = rng.choice(GREETINGS).format(
        first=values["first_name"], last=values["last_name"], email=values["email"]
    )
    values["message"] = greeting + values["message"]


def _number(rng: random.Random, tickets: list[Ticket]) -> None:
    days = sorted(rng.randrange(DAYS) for _ in tickets)
    for number, (ticket, day) in enumerate(zip(tickets, days, strict=True), start=1):
        ticket.fields["ticket_id"] = f"T-{number:04d}"
        ticket.fields["created_at"] = (FIRST_DAY + timedelta(days=day)).isoformat()


def _break(rng: random.Random, tickets: list[Ticket]) -> None:
    """Marks two tickets for each kind of damage, and does the damage that fields can show."""
    later = tickets[FIRST_MALFORMED:]
    plain = [ticket for ticket in later if ticket.fields["kind"] == "message" and ticket.intent]
    for kind, ticket in zip(2 * _MALFORMED.split(), rng.sample(plain, 12), strict=True):
        ticket.malformed, ticket.route = kind, "error"
        values = ticket.fields
        if kind == "empty_id":
            values["ticket_id"] = ""
        elif kind == "duplicate_id":
            # Up to there, every ticket is whole.
            values["ticket_id"] = f"T-{rng.randint(1, FIRST_MALFORMED):04d}"
        elif kind == "too_long":
            values["message"] = _thread(values)
        elif kind == "not_utf8":
            values["message"] = f"written at the café: {values['message']}"


def _thread(values: dict[str, str]) -> str:
    """The question with a pasted e-mail thread under it, far beyond the model's 512 tokens."""
    lines, words, depth = [values["message"], ""], 0, 0
    while words < _THREAD_WORDS:
        depth += 1
        lines.append(f"{'>' * depth} On day {20 - depth}, {values['first_name']} wrote:")
        for sentence in _THREAD:
            lines.append(f"{'>' * depth} {sentence}")
            words += len(sentence.split())
    return "\n".join(lines)


def _row(values: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _record(ticket: Ticket) -> bytes:
    """The record's bytes: RFC 4180, UTF-8, LF; but for the damage it is marked for."""
    values = [ticket.fields[column] for column in COLUMNS]
    if ticket.malformed == "too_few_columns":
        values = values[: COLUMNS.index("plan")]
    if ticket.malformed == "too_many_columns":
        # An exporter that forgot to quote: the comma parts the message in two.
        return (_row(values).rstrip("\n") + ", thanks in advance\n").encode()
    encoding = "latin-1" if ticket.malformed == "not_utf8" else "utf-8"
    return _row(values).encode(encoding)


def make(output: Path, seed: int) -> None:
    """Writes `records.csv` and `truth.csv` into `output`.

    In the truth, `line` is the physical line on which the record starts (the header is line 1),
    `expected_route` is template, closed, local, or error for the broken ones, by the record's kind
    and topic alone, and `intent` is `oos` for a question out of scope.
    """
    rng = random.Random(seed)
    tickets = _tickets(rng)
    _number(rng, tickets)
    _break(rng, tickets)
    records, truth, line = [_row(COLUMNS).encode()], [_row(TRUTH_COLUMNS)], 2
    for ticket in tickets:
        record = _record(ticket)
        records.append(record)
        named = [ticket.fields["ticket_id"], str(line), ticket.intent, ticket.domain]
        truth.append(_row([*named, ticket.in_scope, ticket.route, ticket.malformed]))
        line += record.count(b"\n")
    output.mkdir(parents=True, exist_ok=True)
    (output / "records.csv").write_bytes(b"".join(records))
    (output / "truth.csv").write_bytes("".join(truth).encode())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR")
    arguments = parser.parse_args()
    make(arguments.output, arguments.seed)


if __name__ == "__main__":
    main()
