"""`surelocal doctor` and `surelocal models`: this machine, and what fits it; a part of
`runner.cli.main`, and as thin."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli import parameters
from runner.cli.parameters import FILE
from runner.terminal import console, echo

if TYPE_CHECKING:
    from runner.job.presets import Preset
    from runner.machine.doctor import Report
    from runner.machine.hardware import Machine

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.argument("job_file", metavar="[JOB.yaml]", type=FILE, required=False)
@parameters.overrides
@click.option("--quick", is_flag=True, help="Without importing the engine, which takes seconds.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def doctor(job_file: Path | None, overrides: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Whether this machine can run jobs, or this one: what it has, what is missing, and the fix.
    Ends with 1 where something must be fixed."""
    from runner.job.file import load_job
    from runner.machine.doctor import examine
    from runner.machine.hardware import this_machine

    job = load_job(job_file, overrides).job if job_file is not None else None
    report = examine(this_machine(), job, deep=not quick)
    if as_json:
        echo(json.dumps({**asdict(report), "machine": report.machine.as_json()}))
    else:
        _show(report)
    if report.problems:
        sys.exit(1)


def _show(report: Report) -> None:
    for name, text in _rows(report):
        echo(f"{name:<10}{text}")
    for note in report.notes:
        echo(f"note: {note}")
    for problem in report.problems:
        echo(f"problem: {problem}")
    if not report.problems:
        echo("nothing to fix")


def _rows(report: Report) -> list[tuple[str, str]]:
    from runner.machine.memory import gib

    machine = report.machine
    rows = [
        (
            "GPU",
            f"{gpu.index}: {gpu.name}, {gib(gpu.memory)} ({gib(gpu.free)} free), driver "
            f"{gpu.driver}, compute capability {gpu.capability or 'unknown'}",
        )
        for gpu in machine.gpus
    ] or [("GPU", "none")]
    keys = [f"{name} {'set' if there else 'not set'}" for name, there in report.keys.items()]
    return [
        *rows,
        ("CPU", f"{machine.cores} cores of {machine.cpu}"),
        ("memory", f"{gib(machine.memory)}, {gib(machine.memory_free)} of it free"),
        ("disk", f"{gib(machine.cache_free)} free for models in {machine.cache}"),
        ("engine", ", ".join(f"{n} {v}" for n, v in machine.stack.items()) or "none"),
        ("keys", ", ".join(keys)),
        *_job_rows(report),
        ("largest", f"preset that fits, by `surelocal models`: {report.largest or 'none'}"),
    ]


def _job_rows(report: Report) -> list[tuple[str, str]]:
    from runner.machine.memory import gib

    job = report.job
    if job is None:
        return []
    text = f"{job.model} with {job.engine}"
    if job.need is not None and job.weights is not None and job.fit is not None:
        text += (
            f": {gib(job.weights)} of weights, {gib(job.need)} with {job.concurrency} answers of "
            f"{job.context:,} tokens at once; fits: {job.fit.where}"
        )
    if job.cache_tokens is not None:
        text += f"; the KV cache would hold about {job.cache_tokens:,} tokens"
    return [("job", text)]


@click.command()
@click.option("--context", type=_POSITIVE, default=4096, help="Tokens of one prompt and answer.")
@click.option("--concurrency", type=_POSITIVE, default=32, help="Answers at once.")
@click.option("--all", "every", is_flag=True, help="Also the quantised variants.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def models(context: int, concurrency: int, every: bool, as_json: bool) -> None:
    """The presets for `local: {preset: NAME}`: what each needs, whether it fits here, and how it
    was verified."""
    from runner.job.presets import presets
    from runner.machine.hardware import this_machine

    machine = this_machine()
    listed = sorted(presets().values(), key=lambda one: (one.family, one.parameters_b))
    rows = [
        _row(preset, variant, machine, context, concurrency)
        for preset in listed
        for variant in (preset.variants if every or as_json else list(preset.variants)[:1])
    ]
    if as_json:
        echo(json.dumps(rows, ensure_ascii=False))
        return
    _table(rows)
    echo(
        f"memory: weights, the KV cache of {concurrency} answers of {context:,} tokens, and 2 GiB "
        "for the rest; a mode or variant is chosen by /thinking, /direct, /fp8 and so on",
        err=True,
    )


def _row(
    preset: Preset, variant: str, machine: Machine, context: int, concurrency: int
) -> dict[str, Any]:
    from runner.job.presets import verified
    from runner.machine.doctor import here, runs_on
    from runner.machine.memory import of_preset

    model, given = of_preset(preset, variant), preset.variants[variant]
    where = here(model, machine, context, concurrency)
    can = runs_on(preset, variant, machine)
    first = variant == next(iter(preset.variants))
    return {
        "preset": preset.name if first else f"{preset.name}/{variant}",
        "family": preset.family,
        "model": given.model,
        "architecture": preset.architecture,
        "parameters_b": preset.parameters_b,
        "active_b": preset.active_b,
        "context": preset.context,
        "variant": variant,
        "modes": list(preset.modes),
        "weights_bytes": model.weight_bytes,
        "cache_bytes": concurrency * model.sequence_bytes(context) if model.layers else None,
        "memory_bytes": model.need(context, concurrency),
        "fits": where.fits and can,
        "where": where.where if can else "no",
        "licence": preset.licence,
        "needs": given.needs,
        "capability": given.capability,
        "note": preset.note,
        "unknown": preset.unknown,
        "verified": verified().get(preset.architecture),
    }


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("preset", "parameters", "precision", "memory", "fits here", "verified in"):
        right = name in ("parameters", "memory")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["preset"], _parameters(row), row["variant"], _memory(row), row["where"], _how(row)
        )
    # As wide as it is: in a pipe, a table of 80 columns would lose the ends of names.
    console(width=120, highlight=False).print(table)


def _parameters(row: dict[str, Any]) -> str:
    whole, active = row["parameters_b"], row["active_b"]
    return f"{whole:,.3g}B" if whole == active else f"{whole:,.4g}B, {active:,.3g}B active"


def _memory(row: dict[str, Any]) -> str:
    from runner.machine.memory import gib

    return ("over " if row["cache_bytes"] is None else "") + gib(row["memory_bytes"])


def _how(row: dict[str, Any]) -> str:
    found = row["verified"]
    if not found or not found["way"]:
        return "-"
    limits = [] if found["as"] == row["architecture"] else ["language part"]
    limits += [] if found["whole"] else [f"{' and '.join(found['modes'])} only"]
    more = f" ({', '.join(limits)})" if limits else ""
    return f"{found['way']}, {found['machine']}{more}"
