"""What the white space of a JSON answer does: how many answers are valid, and how many right, where
it is bounded as the engines bound it, free, and forbidden.

`python scripts/bench/whitespace.py FOLDER [FOLDER …]`: models; `scripts/real_model.py` makes one.
The messages are the demo's, and right is an answer that has a message's true domain.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.answering.check import Checker
from runner.engines.grammars import json_options
from runner.engines.transformers import engine as transformers
from runner.job import Local
from runner.types import Constraint, Message, Prompt, Sampling

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "bounded": json_options(),
    "free": {"any_whitespace": True},
    "compact": {"any_whitespace": False, "separators": (",", ":")},
}
_SIZES = {"enum": ["small", "large"]}
FIELDS: Mapping[str, tuple[dict[str, Any], str]] = {
    "boolean": ({"type": "boolean"}, "whether it is urgent"),
    "nested": (
        {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 5},
                           "ok": {"type": "boolean"}},
            "required": ["n", "ok"], "additionalProperties": False,
        },
        "n, its urgency from 1 to 5, and ok, whether it is polite",
    ),
    "$ref": ({"$ref": "#/$defs/Size"}, "how large the matter is"),
    "format": ({"type": "string", "format": "date"}, "the day it speaks of"),
    "list": ({"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
             "its most telling words"),
    "tags": ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 1, "maxItems": 3},
             "which of a, b and c it is"),
}  # fmt: skip


def schema(name: str, domains: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"domain": {"enum": list(domains)}, "more": FIELDS[name][0]},
        "required": ["domain", "more"], "additionalProperties": False,
        "$defs": {"Size": _SIZES},
    }  # fmt: skip


def asked(count: int) -> list[tuple[str, str]]:
    """Messages of the demo with their true domains."""
    with (DEMO / "truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {row["ticket_id"]: row["domain"] for row in csv.DictReader(file)}
    with (DEMO / "records.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("kind") == "message"]
    known = ((row["message"], truth.get(row["ticket_id"], "")) for row in rows)
    return [(text, domain) for text, domain in known if text and domain][:count]


def measured(
    engine: transformers.TransformersEngine, name: str, records: Sequence[tuple[str, str]]
) -> dict[str, tuple[int, int, int, int]]:
    """By way: how many are valid, how many right, how many hold a list that is empty, and how many
    are right freely and not so."""
    domains = sorted({domain for _, domain in records})
    constraint = Constraint(schema=schema(name, domains))
    system = (
        f"Reply in JSON: `domain`, the topic of the message ({', '.join(domains)}), and `more`, "
        f"{FIELDS[name][1]}."
    )
    prompts = [
        Prompt((Message("system", system), Message("user", text)), constraint)
        for text, _ in records
    ]
    right: dict[str, list[bool]] = {}
    found: dict[str, tuple[int, int, int]] = {}
    for way, options in WAYS.items():
        setattr(transformers, "json_options", lambda options=options: options)  # noqa: B010
        answers = [Checker(constraint).check(each) for each in asyncio.run(_all(engine, prompts))]
        values = [a.value if a.valid and isinstance(a.value, dict) else {} for a in answers]
        right[way] = [v.get("domain") == d for v, (_, d) in zip(values, records, strict=True)]
        empty = sum(value.get("more") == [] for value in values)
        found[way] = (sum(map(bool, values)), sum(right[way]), empty)
    lost = {
        way: sum(free and not own for free, own in zip(right["free"], each, strict=True))
        for way, each in right.items()
    }
    return {way: (*each, lost[way]) for way, each in found.items()}


async def _all(engine: transformers.TransformersEngine, prompts: Sequence[Prompt]) -> list[Any]:
    sampling = Sampling(temperature=0.0, max_tokens=120)
    return list(await asyncio.gather(*(engine.generate(each, sampling) for each in prompts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--only", choices=FIELDS, action="append")
    given = parser.parse_args()
    records = asked(given.records)
    for model in given.models:
        local = Local(model=str(model), engine_args={"dtype": "float32"}, cpu_threads=2)
        engine = transformers.TransformersEngine(str(model), local)
        print(f"{model}, {len(records)} messages: valid, right, empty lists, right only freely")
        for name in given.only or FIELDS:
            for way, each in measured(engine, name, records).items():
                print(
                    f"  {name:8} {way:8} {' '.join(f'{number:4}' for number in each)}", flush=True
                )
        asyncio.run(engine.aclose())


if __name__ == "__main__":
    main()
