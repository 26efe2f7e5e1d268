"""Scores our completions with the confidence estimators of cascadeflow 1.2.0 and uqlm 0.6.7.

    .venv-peers/bin/python scripts/bench/peers/score.py IN.jsonl OUT.jsonl

Each line of IN is one answer: prompt, system, text, tokens, logprobs, top_logprobs, samples. Each
line of OUT, in the same order, is {name: score}, where a higher score means more confident, and NaN
that there is none (an answer without tokens). The packages compute every number; this file only
brings rows into the shapes they take.

- cascadeflow: `cascadeflow.quality.ProductionConfidenceEstimator("vllm").estimate(…)`, its
  `final_confidence`. This is what the cascade holds against its threshold: its vLLM provider makes
  this call for each draft. 0.5 · logprobs + 0.2 · wording + 0.2 · alignment + 0.1 · ease, + 0.05
  for "stop", and at most 0.30, 0.35 or 0.40 where alignment is below 0.15, 0.20 or 0.25. The query
  is `cascadeflow.utils.messages.messages_to_prompt` of system and user, as in its drafter. The
  checks beside the threshold, such as of length, are not scores; most bare labels fail them.
- cascadeflow user text: the same with the user's text alone as the query.
- cascadeflow logprobs: `logprobs_confidence` of that analysis, the first of the four parts.
- uqlm min_probability, sequence_probability (by uqlm's default the geometric mean over tokens),
  min_token_negentropy, mean_token_negentropy, probability_margin: `uqlm.WhiteBoxUQ(scorers).score`
  on the given logprobs, with uqlm's default of the 15 likeliest tokens. The classes behind it are
  `uqlm.white_box.SingleLogprobsScorer` and `TopLogprobsScorer`.
- uqlm sequence_probability, not normalized: the same with `length_normalize=False`.
- uqlm exact_match: `uqlm.BlackBoxUQ(["exact_match"]).score`, the share of samples that equal the
  answer; `uqlm.black_box.MatchScorer` is behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

from cascadeflow.quality import (  # type: ignore[import-not-found]
    ProductionConfidenceEstimator,
)
from cascadeflow.utils.messages import messages_to_prompt  # type: ignore[import-not-found]
from uqlm import BlackBoxUQ, WhiteBoxUQ  # type: ignore[import-not-found]

SINGLE = ["min_probability", "sequence_probability"]
TOP = ["min_token_negentropy", "mean_token_negentropy", "probability_margin"]
TOP_K = 15  # uqlm's default; it skips a token that comes with more or fewer alternatives
IMPOSSIBLE = {"token": "", "logprob": -9999.0}  # how vLLM's server writes a probability of zero

Row = dict[str, Any]
Scores = dict[str, list[float]]


def cascadeflow_scores(rows: list[Row]) -> Scores:
    """The draft's confidence as cascadeflow's vLLM provider computes it, and its logprobs part."""
    estimator = ProductionConfidenceEstimator("vllm")

    def estimate(row: Row, query: str) -> Any:
        return estimator.estimate(
            row["text"], query=query, logprobs=row["logprobs"], tokens=row["tokens"],
            temperature=0.0, finish_reason="stop",
        )  # fmt: skip

    def both(row: Row) -> str:
        chat = {"system": row["system"], "user": row["prompt"]}
        prompt: str = messages_to_prompt([{"role": r, "content": c} for r, c in chat.items()])
        return prompt

    whole = [estimate(row, both(row)) for row in rows]
    alone = [estimate(row, row["prompt"]) for row in rows]
    return {
        "cascadeflow": [found.final_confidence for found in whole],
        "cascadeflow user text": [found.final_confidence for found in alone],
        "cascadeflow logprobs": [found.logprobs_confidence for found in whole],
    }


def tokens_of(row: Row) -> list[Row]:
    """A row's tokens in the shape of OpenAI's and vLLM's `logprobs.content`, which uqlm takes.

    Constrained decoding often leaves fewer than TOP_K tokens possible. The others are then named
    with a probability of zero, as vLLM's server does it: uqlm would skip such a token.
    """
    shaped = []
    for token, logprob, top in zip(
        row["tokens"], row["logprobs"], row["top_logprobs"], strict=True
    ):
        best = [{"token": name, "logprob": max(value, -9999.0)} for name, value in top[:TOP_K]]
        best += [IMPOSSIBLE] * (TOP_K - len(best))
        shaped.append({"token": token, "logprob": logprob, "top_logprobs": best})
    return shaped


def uqlm_scores(rows: list[Row]) -> Scores:
    """uqlm's scorers that need neither a further call of the model nor a downloaded one."""
    given = [tokens_of(row) for row in rows]

    def white_box(scorers: list[str], normalize: bool) -> Scores:
        box = WhiteBoxUQ(scorers=scorers, length_normalize=normalize)
        data = asyncio.run(box.score(logprobs_results=given, show_progress_bars=False)).data
        return {name: data[name] for name in scorers}

    found = white_box([*SINGLE, *TOP], True)
    product = white_box(SINGLE[1:], False)[SINGLE[1]]
    black_box = BlackBoxUQ(scorers=["exact_match"])
    match = black_box.score(
        responses=[row["text"] for row in rows],
        sampled_responses=[row["samples"] for row in rows],
        show_progress_bars=False,
    ).data["exact_match"]
    found |= {f"{SINGLE[1]}, not normalized": product, "exact_match": match}
    return {f"uqlm {name}": scores for name, scores in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("answers", type=Path, metavar="IN.jsonl")
    parser.add_argument("scores", type=Path, metavar="OUT.jsonl")
    options = parser.parse_args()
    # cascadeflow warns of each answer it caps, uqlm says that its top-logprobs scorers are in beta.
    logging.getLogger("cascadeflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    with options.answers.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    columns = (cascadeflow_scores(rows) | uqlm_scores(rows)) if rows else {}
    with options.scores.open("w", encoding="utf-8") as file:
        for numbers in zip(*columns.values(), strict=True):
            known = (math.nan if number is None else float(number) for number in numbers)
            file.write(json.dumps(dict(zip(columns, known, strict=True))) + "\n")


if __name__ == "__main__":
    main()
