"""The ways that are compared, by name, each run in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from engines.meter import Took
from engines.ours import ours
from engines.peers import client, run_batch
from engines.raw import raw
from engines.ray_data import BATCH, ray_data
from engines.work import CPU, IN_PROCESS, NO_COMPILER, QUIET, Work
from runner import keys

LIMIT_S = 900


@dataclass(frozen=True, slots=True)
class Way:
    """``adds_to``: the way that does the same but for what this one's name says."""

    run: Callable[[Work], Took]
    settings: str = ""
    adds_to: str = ""
    environment: dict[str, str] = field(default_factory=dict)


BARE, SCHEMA, RAW = "LLM.chat, bare", "LLM.chat + schema", "LLM.chat + schema + logprobs"
OURS, CERTIFIED = "surelocal", "surelocal, certified"
P_TRUE, SAMPLES = "certified + P(true)", "certified + 5 samples"
LOOKS = {CERTIFIED: "{}", P_TRUE: "{p_true: true}", SAMPLES: "{samples: 5}"}
AS_OURS = "256 sequences, 4,096 tokens a step"
COMPARED = {
    OURS: Way(ours, "the demo's job as it stands", RAW),
    RAW: Way(raw, "engine in the process", SCHEMA, IN_PROCESS),
    # vLLM's own choice on a CPU, the worker in one more process, took 39.6 CPU s in place of 28.6.
    "vllm run-batch": Way(
        run_batch, f"{AS_OURS}; nothing compiled", environment=IN_PROCESS | NO_COMPILER
    ),
    # 128 at once took 9.4 CPU s in place of 6.3, on the first 500 records.
    "openai client, 512 at once": Way(
        partial(client, at_once=512), f"vLLM's server, {AS_OURS}", environment=IN_PROCESS
    ),
    "Ray Data LLM": Way(ray_data, f"{AS_OURS}; batches of {BATCH}", environment=IN_PROCESS),
}
COSTS = {
    BARE: Way(partial(raw, schema=False, logprobs=False), environment=IN_PROCESS),
    SCHEMA: Way(partial(raw, logprobs=False), "", BARE, IN_PROCESS),
    RAW: COMPARED[RAW],
    OURS: COMPARED[OURS],
    CERTIFIED: Way(partial(ours, looks=LOOKS[CERTIFIED]), "", OURS),
    P_TRUE: Way(partial(ours, looks=LOOKS[P_TRUE]), "", CERTIFIED),
    SAMPLES: Way(partial(ours, looks=LOOKS[SAMPLES]), "", CERTIFIED),
}
WAYS = COMPARED | COSTS


def measured(name: str, limit: int | None, made: Path) -> Took | str:
    """What a way took, in processes of its own, or the sentence why it did not run."""
    script = Path(sys.argv[0]).resolve()
    command = [sys.executable, str(script), "--one", name, "--made", str(made)]
    command += ["--quick"] if limit else []
    process = subprocess.Popen(
        command, env=keys.environment() | CPU | QUIET | WAYS[name].environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        said, problem = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"did not end in {LIMIT_S} s"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        # A group of exceptions ends in a frame.
        said_last = [line for line in problem.splitlines() if any(map(str.isalpha, line))]
        last = said_last[-1] if said_last else f"status {process.returncode}"
        return f"did not run: {last.strip()[:400]}"
    return Took(**json.loads(said.splitlines()[-1]))


def one(name: str, limit: int | None, made: Path) -> str:
    """What a way took, as JSON: the other end of `measured`."""
    with tempfile.TemporaryDirectory() as folder:
        took = WAYS[name].run(Work(limit, Path(folder), made))
    return json.dumps(asdict(took))
