"""CLINC150 as the trainer sees it, and the ways its questions are varied in training."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path
from typing import NamedTuple

DATA_DIR = Path(__file__).resolve().parents[2] / "configs" / "demo" / "clinc150"

# The splits nothing may be learned from. The small out-of-scope splits are among them: a model
# that had seen any would make the demo's confidence look better on strangers than it is.
UNSEEN_SPLITS = ("val", "test", "oos_train", "oos_val", "oos_test")

_NAMES = """
    alice ahmed anna ben bruno carla chen claire david elena emma felix hannah ivan james jan joao
    julia karen kofi laura leo lina luis marco mei mike nadia nina omar paul priya rosa sam sofia
    steve tom vera yuki zoe
"""
_GREETINGS = (
    "hi, this is {name}. ",
    "hello, this is {name}, ",
    "hi, i'm {name}. ",
    "hello, my name is {name}. ",
    "hi, my email is {name}@example.com. ",
    "this is {name}@example.org, ",
)


class Question(NamedTuple):
    """One customer question with its intent and domain (both `oos` when out of scope)."""

    text: str
    intent: str
    domain: str


@cache
def _raw() -> dict[str, list[tuple[str, str]]]:
    with gzip.open(DATA_DIR / "data_full.json.gz", "rt", encoding="utf-8") as file:
        return {split: [(t, i) for t, i in rows] for split, rows in json.load(file).items()}


@cache
def domain_of() -> dict[str, str]:
    """Intent -> domain, 150 intents in ten domains."""
    domains: dict[str, list[str]] = json.loads((DATA_DIR / "domains.json").read_text("utf-8"))
    return {intent: domain for domain, intents in domains.items() for intent in intents}


def split(name: str) -> list[Question]:
    """One split as published: train, val, test, oos_train, oos_val or oos_test."""
    domains = domain_of()
    return [Question(text, intent, domains.get(intent, "oos")) for text, intent in _raw()[name]]


def training_questions() -> list[Question]:
    """The questions the model and its tokenizer learn from.

    CLINC150 has a few training questions that are word for word in another split; those are
    left out here, so that no measured question was ever seen.
    """
    unseen = {text for name in UNSEEN_SPLITS for text, _ in _raw()[name]}
    return [question for question in split("train") if question.text not in unseen]


def as_written(text: str, rng: random.Random) -> str:
    """A lower-case question as somebody careful would type it: capitals and an end mark."""
    words = ["I" + word[1:] if word.split("'")[0] == "i" else word for word in text.split(" ")]
    written = " ".join(words)
    return written[:1].upper() + written[1:] + rng.choice(("?", ".", ""))


def varied(text: str, rng: random.Random) -> str:
    """The question, sometimes with capitals and an end mark, sometimes with a greeting before it.

    All of CLINC150 is lower case without end marks; what people paste into a CRM is not.
    """
    if rng.random() < 0.15:
        text = as_written(text, rng)
    if rng.random() < 0.06:
        name = rng.choice(_NAMES.split())
        greeting = rng.choice(_GREETINGS)
        text = greeting.format(name=name if "@" in greeting else name.capitalize()) + text
    return text
