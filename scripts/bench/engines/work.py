"""The work that all ways get: the demo's records that go to the model, and how they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escalation.policy import Router
from runner.answering.prompts import renderer_of
from runner.errors import RecordError
from runner.job import Job
from runner.job.file import load_job
from runner.pipeline.assemble import records
from runner.types import Route

DEMO = Path(__file__).resolve().parents[3] / "configs" / "demo"
MODEL = str(DEMO / "model")
CPU = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
MODEL_ARGS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "disable_log_stats": True,
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
}
BATCH_ARGS: dict[str, Any] = {"max_num_seqs": 256, "max_num_batched_tokens": 4096}
"""What `vllm.LLM` takes by itself on a CPU; a server takes half of it."""
WARM = ["yes", "no"]
"""What each way is warmed up with, as a run of ours warms its engine up by asking it for one of two
labels: imports and what vLLM compiles for the first logprobs are then behind it, the job's own
grammar is not."""
NO_COMPILER = {"TORCHDYNAMO_DISABLE": "1"}
"""For what cannot be warmed up: that compiling takes more than a second, and gains nothing here."""
LONGEST = 1000  # characters; a longer message does not fit into the model


@dataclass(frozen=True, slots=True)
class Work:
    """``limit``: the first so many of the demo's records, or all. ``folder``: for what is written
    on the way. ``made``: the folder of the calibrations."""

    limit: int | None
    folder: Path
    made: Path

    def job(self, overrides: Sequence[str] = ()) -> Job:
        return load_job(DEMO / "job.yaml", overrides).job

    def chats(self) -> list[Any]:
        """The chats of the records that reach the local model and fit into it."""
        job = self.job()
        router, renderer = Router(job), renderer_of(job)
        chats: list[Any] = []
        for record in records(job, self.limit):
            try:
                local = record.problem is None and router.route(record).route is Route.LOCAL
            except RecordError:
                continue
            if local and len(str(record.fields["message"])) < LONGEST:
                messages = renderer.render(record).messages
                chats.append([{"role": m.role, "content": m.content} for m in messages])
        return chats

    def bodies(self, *, logprobs: bool = True) -> list[dict[str, Any]]:
        """The same as requests to OpenAI's API."""
        job = self.job()
        schema = {"name": "answer", "schema": job.answer.json_schema, "strict": True}
        shared: dict[str, Any] = {
            "model": MODEL,
            "temperature": 0,
            "seed": 0,
            "max_tokens": job.local.sampling.max_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        if logprobs:
            shared |= {"logprobs": True, "top_logprobs": job.confidence.top_logprobs}
        return [{"messages": chat, **shared} for chat in self.chats()]


def flags(arguments: dict[str, Any]) -> list[str]:
    """Engine arguments as the command line takes them."""
    given: list[str] = []
    for name, value in arguments.items():
        given.append(f"--{name.replace('_', '-')}")
        if value is not True:
            given.append(str(value))
    return given
