"""The system instructions the demo model knows, and the two forms of its answer."""

from __future__ import annotations

import json
from enum import StrEnum


class Form(StrEnum):
    """What the answer looks like; the system instruction alone decides it."""

    LABEL = "label"
    JSON = "json"


# The first wording of each form is the canonical one.
WORDINGS: dict[Form, tuple[str, ...]] = {
    Form.LABEL: (
        "Answer with the intent of the customer's message.",
        "Classify the customer's message. Reply with the intent only.",
        "What does the customer want? Give the name of the intent and nothing else.",
        "You are an intent classifier. Output one label.",
        "Read the message and return its intent.",
        "Name the intent of this message.",
        "You sort customer messages by intent. Reply with the label of the intent, no other text.",
    ),
    Form.JSON: (
        "Answer with the intent and the domain of the customer's message as JSON.",
        "Classify the customer's message. Reply with JSON with the keys intent and domain.",
        "What does the customer want? Give the intent and its domain in JSON and nothing else.",
        "You are an intent classifier. Output JSON with intent and domain.",
        "Read the message and return its intent and domain as a JSON object.",
        "Name the intent and the domain of this message, in JSON.",
        "You sort customer messages. Reply with one JSON object: the intent, then the domain.",
    ),
}

# Never trained on: they measure what an unseen wording costs.
HELD_OUT: dict[Form, str] = {
    Form.LABEL: "Tell me which intent the message below has. Write only the intent.",
    Form.JSON: "Tell me which intent and domain the message below has. Write only JSON.",
}


def canonical(form: Form) -> str:
    """The system instruction to use for `form`."""
    return WORDINGS[form][0]


def answer(form: Form, intent: str, domain: str) -> str:
    """The answer's exact text: `card_declined`, or the JSON object with both values."""
    if form is Form.LABEL:
        return intent
    return json.dumps({"intent": intent, "domain": domain})
