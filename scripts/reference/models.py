"""models.md: the presets, from `configs/models`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from reference.text import code, table
from runner.job.presets import Preset, presets, verified
from runner.machine.memory import gib

_HEAD = """# Presets

For a job's `local: {preset: NAME[/VARIANT][/MODE]}`; the first variant and the first mode are the
usual ones. `surelocal models` says which of them fit this machine. *Verified in*: a random-weight
checkpoint of that architecture went through the whole pipeline (`scripts/verify_presets.py`).
"""


def page() -> str:
    listed = sorted(presets().values(), key=lambda one: (one.family, one.parameters_b))
    out = [_HEAD]
    for family, members in groupby(listed, key=lambda one: one.family):
        out += [f"## {family}\n", table(_COLUMNS, (row for one in members for row in _rows(one)))]
    return "\n".join(out)


_COLUMNS = ("preset", "parameters", "context", "weights", "modes", "licence", "verified in")


def _rows(preset: Preset) -> Iterator[tuple[str, ...]]:
    for number, variant in enumerate(preset.variants):
        whole, active = f"{preset.parameters_b:.4g}B", f"{preset.active_b:.4g}B"
        yield (
            code(f"{preset.name}/{variant}" if number else preset.name),
            whole if whole == active else f"{whole}, {active} active",
            f"{preset.context:,}",
            f"{gib(preset.weight_bytes(variant))} ({variant})",
            ", ".join(preset.modes),
            preset.licence,
            _verified(preset),
        )


def _verified(preset: Preset) -> str:
    found = verified().get(preset.architecture, {})
    if not found.get("way"):
        return "-"
    part = "" if found["as"] == preset.architecture else " (language part)"
    modes = "" if found["whole"] else f", {' and '.join(found['modes'])} only"
    return f"{found['way']}{part}{modes}"
