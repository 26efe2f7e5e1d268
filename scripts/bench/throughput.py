"""Our tokens per second against vLLM's own `LLM.chat`, on the demo's records that go to the model.

    python scripts/bench/throughput.py [--rounds 5] [--cost]

Each round runs both in fresh processes, one after the other: the same prompts, sampling, schema,
logprobs and engine settings. Loading the engine is left out of both; everything behind it is in:
for ours reading, routing, the check, the ledger, the results and closing the engine, for raw vLLM
closing nothing. ``--cost`` adds what the schema and the logprobs cost, by leaving them out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from runner.errors import RecordError
from runner.job import Job
from runner.job_file import load_job
from runner.pipeline import Progress
from runner.prompts import renderer_of
from runner.records import read_records
from runner.running import RunRequest, run_job

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def conversations(job: Job, positions: set[int]) -> list[Any]:
    """The chats of the records at these input positions."""
    renderer = renderer_of(job)
    chats: list[Any] = []
    for record in read_records(job.records_path(), job.records.id):
        if record.position in positions:
            messages = renderer.render(record).messages
            chats.append([{"role": m.role, "content": m.content} for m in messages])
    return chats


def routed(job: Job) -> set[int]:
    """Positions of the records that reach the local model and fit into it."""
    from escalation.policy import Router
    from runner.types import Route

    router, found = Router(job), set()
    for record in read_records(job.records_path(), job.records.id):
        try:
            local = record.problem is None and router.route(record).route is Route.LOCAL
        except RecordError:
            continue
        if local and len(str(record.fields["message"])) < 1000:
            found.add(record.position)
    return found


def raw(job: Job, *, constrained: bool = True, logprobs: bool = True) -> tuple[int, float]:
    """(tokens, seconds) of one `LLM.chat` over all of them."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    chats = conversations(job, routed(job))
    llm = LLM(
        str(DEMO / "model"), dtype="float32", enforce_eager=True, disable_log_stats=True,
        logprobs_mode="processed_logprobs", generation_config="vllm",
    )  # fmt: skip
    schema = StructuredOutputsParams(json=job.answer.json_schema) if constrained else None
    params = SamplingParams(
        temperature=0, max_tokens=job.local.sampling.max_tokens, seed=0,
        logprobs=job.confidence.top_logprobs if logprobs else None,
        flat_logprobs=True, structured_outputs=schema,
    )  # fmt: skip
    began = time.monotonic()
    outputs = llm.chat(chats, params, use_tqdm=False)
    seconds = time.monotonic() - began
    return sum(len(output.outputs[0].token_ids) for output in outputs), seconds


def ours(job: Job) -> tuple[int, float]:
    """(tokens, seconds) of a whole run, from the loaded engine to the written results."""
    progress = Progress()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        request = RunRequest(job, run_dir, run_dir / "results.jsonl")
        run_job(request, progress, lambda text: None)
        assert progress.generating_since is not None
        return progress.generated_tokens, time.monotonic() - progress.generating_since


WAYS: dict[str, Callable[[Job], tuple[int, float]]] = {
    "raw": raw,
    "ours": ours,
    "raw without logprobs": partial(raw, logprobs=False),
    "raw without schema or logprobs": partial(raw, constrained=False, logprobs=False),
}


def measure(which: str) -> tuple[int, float]:
    """One way in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", which],
        env=os.environ | CPU | QUIET, capture_output=True, text=True, check=True,
    )  # fmt: skip
    tokens, seconds = json.loads(done.stdout.splitlines()[-1])
    return tokens, seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        job = load_job(DEMO / "job.yaml").job
        print(json.dumps(WAYS[options.one](job)))
        return
    ratios = []
    for _ in range(options.rounds):
        rates = {}
        for which in ("raw", "ours"):
            tokens, seconds = measure(which)
            rates[which] = tokens / seconds
            print(f"{which}: {tokens:,} tokens in {seconds:.1f} s, {rates[which]:,.0f} tokens/s")
        ratios.append(rates["ours"] / rates["raw"])
    print(f"ratio, median of {len(ratios)}: {median(ratios):.2f}")
    if options.cost:
        for which in list(WAYS):
            tokens, seconds = measure(which)
            print(f"{which}: {seconds:.1f} s ({tokens:,} tokens)")


if __name__ == "__main__":
    main()
