"""Checks whether the machine is ready: its hardware, a job's model and its memory. Each problem is
reported with the fix. Loads no model.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import keys
from runner.errors import SureLocalError
from runner.formats.urls import showable
from runner.job import Job
from runner.job.escalation import Escalation
from runner.job.presets import Preset, presets
from runner.job.providers import key_variables
from runner.machine.hardware import Machine, cached
from runner.machine.memory import (
    CPU_BLOCK,
    GIB,
    OVERHEAD,
    UTILIZATION,
    Fit,
    Model,
    fit,
    gib,
    of_folder,
    of_preset,
)
from runner.pipeline.assemble import engine_name, model_mistake

CONTEXT = 4096
CONCURRENCY = 32
HUB_KEY = "HF_TOKEN"  # for the model hub
_IMPORT_S = 120
_LEAST_DISK = 20 * GIB


@dataclass(frozen=True, slots=True)
class JobNeeds:
    """What a job's model needs here. ``cache_tokens``: the number of tokens its KV cache would
    hold. It, ``need`` and ``fit`` are None if unknown."""

    model: str
    engine: str
    context: int
    concurrency: int
    weights: int | None = None
    need: int | None = None
    fit: Fit | None = None
    cache_tokens: int | None = None


@dataclass(slots=True)
class Report:
    """The result. ``problems`` must be fixed before a job can run here; ``notes`` need not."""

    machine: Machine
    keys: Mapping[str, bool]
    job: JobNeeds | None = None
    largest: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def examine(machine: Machine, job: Job | None = None, *, deep: bool = True) -> Report:
    """Examines the machine. ``deep`` also imports the engine in a subprocess, which takes
    seconds."""
    names = [*key_variables(), HUB_KEY, *(job.key_names() if job is not None else ())]
    report = Report(machine, {name: bool(os.environ.get(name)) for name in dict.fromkeys(names)})
    _look_at_stack(report, deep)
    if machine.cache_free < _LEAST_DISK:
        report.notes.append(
            f"only {gib(machine.cache_free)} are free for models in {machine.cache}; "
            "set HF_HOME to a folder on a larger disk before you use a model from the hub"
        )
    best = largest(machine)
    report.largest = best[0] if best else None
    if job is not None:
        _look_at_job(report, job)
    return report


def _look_at_stack(report: Report, deep: bool) -> None:
    machine, problems = report.machine, report.problems
    if machine.gpu_problem:
        problems.append(f"{machine.gpu_problem}: fix the NVIDIA driver, then try again")
    if machine.build is None and "transformers" not in machine.stack:
        problems.append(
            "neither vLLM nor transformers is installed: run `make setup` in surelocal's folder, "
            "or `pip install 'surelocal[cpu]'` (or [gpu])"
        )
    elif machine.build == "cuda" and not machine.gpus:
        problems.append(
            "the installed vLLM is the CUDA build, but no GPU is visible: fix the driver or "
            "CUDA_VISIBLE_DEVICES, or run `make setup STACK=cpu`"
        )
    elif machine.build == "cpu" and machine.gpus:
        report.notes.append(
            f"the installed vLLM is the CPU build and does not use the GPU "
            f"({machine.gpus[0].name}): run `make setup STACK=gpu`"
        )
    if deep and not problems and (said := _import_problem(machine)):
        problems.append(
            f"the engine is installed but cannot be imported ({said}): run `make setup` again"
        )


def _import_problem(machine: Machine) -> str | None:
    what = "from vllm import EngineArgs" if machine.build else "import torch, transformers"
    environment = {**keys.environment(), "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", what],
            capture_output=True, text=True, timeout=_IMPORT_S, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {_IMPORT_S} s"
    lines = ran.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit {ran.returncode}") if ran.returncode else None


def here(
    model: Model, machine: Machine, context: int = CONTEXT, concurrency: int = CONCURRENCY
) -> Fit:
    """Whether and where the model fits on this machine."""
    gpus = [gpu.memory for gpu in machine.usable_gpus()]
    if not gpus:
        model = replace(model, block=max(model.block, CPU_BLOCK))
    return fit(model, context, concurrency, gpus, machine.memory_free)


def runs_on(preset: Preset, variant: str, machine: Machine) -> bool:
    """Whether the machine has kernels for the variant: a CPU only for 16 bits, a GPU for what its
    generation supports."""
    given, gpus = preset.variants[variant], machine.usable_gpus()
    if not gpus:
        return variant == "bf16"
    least = min(float(gpu.capability or 0) for gpu in gpus)
    return given.capability is None or least >= given.capability


def largest(
    machine: Machine, context: int = CONTEXT, concurrency: int = CONCURRENCY
) -> tuple[str, Fit] | None:
    """The preset with the most parameters that fits, in its least quantised variant that fits."""
    found: tuple[float, str, Fit] | None = None
    for preset in presets().values():
        if preset.layers is None or (found and preset.parameters_b <= found[0]):
            continue
        for variant in preset.variants:
            where = here(of_preset(preset, variant), machine, context, concurrency)
            if runs_on(preset, variant, machine) and where.fits:
                name = preset.name
                if variant != next(iter(preset.variants)):
                    name += f"/{variant}"
                found = (preset.parameters_b, name, where)
                break
    return found[1:] if found else None


def _look_at_job(report: Report, job: Job) -> None:
    try:
        engine = engine_name(job.local)
    except SureLocalError as error:
        if not report.problems:
            report.problems.append(str(error))
        return
    arguments = job.local.engine_args
    report.job = needs = JobNeeds(
        job.local.model, engine, _context(job), _whole(arguments.get("max_num_seqs")) or CONCURRENCY
    )
    _look_at_key(report, job)
    if engine == "openai_server":
        report.notes.append(
            f"the model runs in the server at {showable(job.local.base_url or '')}, not here"
        )
        return
    folder = job.model_path()
    if folder is not None and (mistake := model_mistake(folder)):
        report.problems.append(f"local.model: {mistake}")
        return
    model = _model_of(job, folder)
    if model is None:
        report.notes.append(
            f"the memory for {job.local.model} is unknown: no preset has it, and it is not on this "
            "disk (`surelocal models` lists the presets)"
        )
        return
    report.job = _with_memory(needs, model, report.machine, job)
    _look_at_fit(report, report.job, model, job)


def _look_at_key(report: Report, job: Job) -> None:
    name = job.escalation.api_key_env if isinstance(job.escalation, Escalation) else None
    if name and not report.keys[name]:
        report.notes.append(
            f"{name} is not set: records for the closed model will wait, and nothing is sent"
        )


def _context(job: Job) -> int:
    """The context to plan for, in tokens: the engine's limit, otherwise room for the job's
    answers."""
    given = _whole(job.local.engine_args.get("max_model_len"))
    return given or max(CONTEXT, job.local.sampling.max_tokens + CONTEXT // 2)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _model_of(job: Job, folder: Path | None) -> Model | None:
    name = job.local.model
    if found := folder or cached(name):
        return of_folder(found, job.local.engine_args)
    for preset in presets().values():
        for variant, given in preset.variants.items():
            if given.model == name:
                return of_preset(preset, variant)
    return None


def _with_memory(needs: JobNeeds, model: Model, machine: Machine, job: Job) -> JobNeeds:
    context = min(needs.context, model.context or needs.context)
    where = here(model, machine, context, needs.concurrency)
    split = where.split or 1
    tokens = None
    if model.layers and (per_token := model.token_bytes()):
        tokens = max(0, _cache_bytes(model, machine, job, split)) // per_token
    return JobNeeds(
        needs.model, needs.engine, context, needs.concurrency, model.weight_bytes,
        model.need(context, needs.concurrency, split) * split, where, tokens,
    )  # fmt: skip


def _cache_bytes(model: Model, machine: Machine, job: Job, split: int) -> int:
    """The bytes that vLLM reserves for the cache, over all GPUs."""
    arguments = job.local.engine_args
    gpus = sorted(gpu.memory for gpu in machine.usable_gpus())
    if machine.build == "cpu" and engine_name(job.local) == "vllm":
        from runner.engines.vllm.setup import CACHE_GIB, environment

        environment(job.local)  # sets the default unless the user has set it
        return int(float(os.environ[CACHE_GIB]) * GIB)
    if given := _whole(arguments.get("kv_cache_memory_bytes")):
        return given * split
    share = float(arguments.get("gpu_memory_utilization") or UTILIZATION)
    room = share * gpus[-split] * split if gpus else machine.memory_free
    return int(room) - model.weight_bytes - OVERHEAD * split


def _look_at_fit(report: Report, needs: JobNeeds, model: Model, job: Job) -> None:
    where, machine = needs.fit, report.machine
    if where is None:
        return
    lower = "lower engine_args.max_num_seqs or max_model_len"
    if not where.sequences:
        best = f" (the largest preset that fits is {report.largest})" if report.largest else ""
        report.problems.append(
            f"{needs.model} does not fit: it has {gib(model.weight_bytes)} of weights, and one "
            f"answer of {needs.context:,} tokens takes {gib(model.need(needs.context, 1))} on "
            f"{_room(machine)}; lower engine_args.max_model_len, or use a smaller model{best}"
        )
        return
    if not where.fits:
        report.notes.append(
            f"there is room for {where.sequences} of {needs.concurrency} answers of "
            f"{needs.context:,} tokens at once; the others wait unless they are shorter "
            f"({lower} if vLLM reports a lack of memory)"
        )
    asked = _whole(job.local.engine_args.get("tensor_parallel_size")) or 1
    if where.split > asked:
        report.problems.append(
            f"{needs.model} fits on {where.split} GPUs together, not on {asked}: add "
            f"engine_args: {{tensor_parallel_size: {where.split}}} to the job's `local`"
        )
    if model.weight_bytes > machine.cache_free and not (job.model_path() or cached(needs.model)):
        report.problems.append(
            f"{needs.model} is {gib(model.weight_bytes)} and {machine.cache} has room for "
            f"{gib(machine.cache_free)}: set HF_HOME to a folder on a larger disk"
        )


def _room(machine: Machine) -> str:
    gpus = machine.usable_gpus()
    if not gpus:
        return f"{gib(machine.memory_free)} of free memory"
    return f"{len(gpus)} GPU(s), the first of {gib(gpus[0].memory)}"
