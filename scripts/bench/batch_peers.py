"""A night's batch by other means: `vllm run-batch`, and a plain asyncio client of vLLM's server.

    python scripts/bench/batch_peers.py [--rounds 3]

The demo's records that go to the model, with the same prompts, schema, sampling and logprobs, in
processes of their own, one after the other. Loading is left out: of our run and the server by their
own word, of run-batch by taking off what it needs for a single record. The time from the command to
the end of a run of one record is shown too, against a script with one `LLM.chat`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from serving import TOP, VLLM, bodies, load, server
from throughput import CPU, DEMO, QUIET, measure, routed

from runner.job_file import load_job

RUN_BATCH = [
    sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "--model", str(DEMO / "model"),
    "--dtype", "float32", "--enforce-eager", "--generation-config", "vllm",
    "--logprobs-mode", "processed_logprobs",
]  # fmt: skip
AT_ONCE = 512
FIRST = """
from vllm import LLM
llm = LLM({model!r}, dtype="float32", enforce_eager=True, disable_log_stats=True)
llm.chat([[{{"role": "user", "content": "hello"}}]], use_tqdm=False)
"""


def run_batch(asked: list[dict[str, Any]], folder: Path) -> tuple[int, float]:
    """(tokens, seconds from the command to its end)."""
    given, made = folder / "in.jsonl", folder / "out.jsonl"
    rows = (
        {"custom_id": f"r-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n, body in enumerate(asked)
    )
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    began = time.monotonic()
    timed([*RUN_BATCH, "-i", str(given), "-o", str(made)])
    seconds = time.monotonic() - began
    answers = [json.loads(line)["response"]["body"] for line in made.read_text().splitlines()]
    return sum(answer["usage"]["completion_tokens"] for answer in answers), seconds


def timed(command: list[str]) -> float:
    began = time.monotonic()
    # As it comes: in one process for run-batch, vLLM's async engine cannot be.
    quiet = {"VLLM_LOGGING_LEVEL": QUIET["VLLM_LOGGING_LEVEL"]}
    subprocess.run(command, env=os.environ | CPU | quiet, check=True, capture_output=True)
    return time.monotonic() - began


def first_of_ours(folder: Path) -> float:
    command = [sys.executable, "-m", "runner.cli", "run", str(DEMO / "job.yaml"), "--limit", "1"]
    began = time.monotonic()
    subprocess.run(
        [*command, "--run-dir", str(folder / "one")], env=os.environ | CPU, capture_output=True,
        check=False,
    )  # fmt: skip
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    job = load_job(DEMO / "job.yaml").job
    asked = [b | {"logprobs": True, "top_logprobs": TOP} for b in bodies(job, len(routed(job)))]
    raw = FIRST.format(model=str(DEMO / "model"))
    ratios: dict[str, list[float]] = {"vllm run-batch": [], "asyncio client": []}
    starts: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            tokens, seconds = measure("ours")
            ours = tokens / seconds
            _, one = run_batch(asked[:1], folder)
            tokens, seconds = run_batch(asked, folder)
            rates = {"vllm run-batch": tokens / (seconds - one)}
            with server(VLLM):
                asyncio.run(load(asked[:8], 8))
                seconds, _, tokens = asyncio.run(load(asked, AT_ONCE))
            rates["asyncio client"] = tokens / seconds
            alone = timed([sys.executable, "-c", raw])
            starts.append(first_of_ours(folder) / alone)
        print(
            f"ours {ours:,.0f} tokens/s, {rates}; first answer: {starts[-1]:.2f} times raw",
            flush=True,
        )
        for name, rate in rates.items():
            ratios[name].append(ours / rate)
    for name, found in ratios.items():
        print(f"ours over {name}, median of {rounds}: {median(found):.2f}")
    print(f"one record, ours over raw vLLM, median of {rounds}: {median(starts):.2f}")


if __name__ == "__main__":
    main()
