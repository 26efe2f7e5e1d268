"""From the command to the first local answer, beside raw vLLM's own best start.

    python scripts/bench/startup.py [--rounds 5]

Each round starts `surelocal run` on the demo (its first 20 records), the same again with a kept
engine (`--keep-loaded`), and raw vLLM in one process: one `LLM.chat` of one of the demo's prompts,
with the same schema and logprobs, a cache of the same size and all that starts it sooner: even the
sampler's compilation is left out, which ours has, since a long run is slower without. All are timed
by one clock from the moment their process is started. CPU seconds are the whole process's, its
engine's included, and are less disturbed by what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo"
CACHE_BYTES = 4 * 3 * 32 * 2 * 4 * (512 + 128) * 256  # what 256 of the demo model's contexts fill
RAW = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip
BEGAN = "SURELOCAL_BENCH_BEGAN"
STEPS = ("imported", "job checked", "engine wanted", "engine ready", "tested", "first answer")


class Marks:
    """Seconds since the process was started, by name."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def note(self, name: str) -> None:
        self.at.setdefault(name, time.time() - float(os.environ[BEGAN]))

    def after(self, name: str, call: Any) -> Any:
        """The call, noted once it returns."""

        def noted(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            self.note(name)
            return result

        return noted


def ours(marks: Marks, options: list[str]) -> None:
    """The command line in this process, with a look at its clock where each step ends."""
    from runner.cli import main

    cli: Any = main
    marks.note("imported")

    def watched(*args: Any) -> Any:
        from runner.engines.process import child
        from runner.pipeline import assemble

        marks.note("job checked")
        engine: Any = child.ChildEngine
        load = engine._load

        def noted(*args: Any) -> Any:
            marks.note("engine wanted")
            return marks.after("engine ready", load)(*args)

        engine._load = noted
        assemble.engine = marks.after("tested", assemble.engine)
        display, progress = watch(*args)

        def look() -> None:
            while not progress.generated_tokens:
                time.sleep(0.001)
            marks.note("first answer")

        threading.Thread(target=look, daemon=True).start()
        return display, progress

    watch, cli.watched = cli.watched, watched
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["--limit", "20", "--set", "escalation.api_key_env=NOBODY_HAS_THIS_KEY"]
        where = ["--run-dir", str(Path(folder) / "run")]
        with contextlib.suppress(SystemExit):  # some records wait for a key
            cli.main(["run", str(DEMO / "job.yaml"), *fixed, *where, *options])


def raw(marks: Marks) -> None:
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    marks.note("imported")
    import yaml

    job = yaml.safe_load((DEMO / "job.yaml").read_text("utf-8"))
    llm = LLM(
        str(DEMO / "model"), dtype="float32", enforce_eager=True, disable_log_stats=True,
        logprobs_mode="processed_logprobs", generation_config="vllm", use_tqdm_on_load=False,
        kv_cache_memory_bytes=CACHE_BYTES,
    )  # fmt: skip
    marks.note("engine ready")
    params = SamplingParams(
        temperature=0, max_tokens=48, seed=0, logprobs=5, flat_logprobs=True,
        structured_outputs=StructuredOutputsParams(json=job["answer"]["schema"]),
    )  # fmt: skip
    texts = {"system": job["prompt"]["system"], "user": "my card has not come yet"}
    chat: Any = [{"role": role, "content": text} for role, text in texts.items()]
    llm.chat([chat], params, use_tqdm=False)
    marks.note("first answer")


WAYS: dict[str, Callable[[Marks], None]] = {
    "raw": raw,
    "ours": partial(ours, options=[]),
    "kept": partial(ours, options=["--keep-loaded"]),
}


def measure(which: str, environment: dict[str, str]) -> dict[str, float]:
    """One start in a process of its own: its marks, and the CPU seconds it took until its end."""
    before = _cpu()
    given = {**os.environ, **environment, BEGAN: str(time.time())}
    done = subprocess.run(
        [sys.executable, __file__, "--one", which],
        env=given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    marks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return marks | {"cpu": _cpu() - before}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        marks = Marks()
        WAYS[options.one](marks)
        print(json.dumps(marks.at), flush=True)
        os._exit(0)
    found: dict[str, list[dict[str, float]]] = {which: [] for which in WAYS}
    with tempfile.TemporaryDirectory() as place:
        kept = {"XDG_RUNTIME_DIR": place}
        measure("kept", kept)  # loads what the others take over
        for _ in range(options.rounds):
            for which, environment in (("raw", RAW), ("ours", {}), ("kept", kept)):
                one = measure(which, environment)
                found[which].append(one)
                steps = ", ".join(f"{name} {one[name]:.2f}" for name in STEPS if name in one)
                print(f"{which}: {steps} s; {one['cpu']:.1f} CPU s", flush=True)
        subprocess.run(
            [sys.executable, "-m", "runner.cli.main", "engines", "--stop"],
            env=os.environ | kept, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
    for which in ("ours", "kept"):
        for name in ("first answer", "cpu"):
            pairs = zip(found[which], found["raw"], strict=True)
            ratio = median(own[name] / theirs[name] for own, theirs in pairs)
            print(f"{which}, {name}: {ratio:.2f} of raw, median of {options.rounds}")


if __name__ == "__main__":
    main()
