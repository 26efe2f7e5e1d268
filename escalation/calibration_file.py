"""A calibration as a file: one JSON object, refused by any job but its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from escalation.calibration import IDENTITY, Calibration, Certifying
from escalation.combiner import Combiner, Platt
from escalation.support import Support
from runner.errors import UsageError
from runner.foreign_json import parse

VERSION = 2


def save(calibration: Calibration, path: Path) -> None:
    """Raises `UsageError` where it cannot be written."""
    support = calibration.support
    whole = asdict(replace(calibration, support=None)) | {
        "version": VERSION,
        "support": support.as_json() if support is not None else None,
    }
    try:
        path.write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot save the calibration to {path}: {error.strerror}") from None


def load(path: Path, identity: Mapping[str, str]) -> Calibration:
    """Reads a calibration made for exactly this job.

    Raises:
        UsageError: it is not there, is none, or belongs to another job, model or prompt.
    """
    try:
        data: dict[str, Any] = parse(path.read_bytes())
        if data.pop("version") != VERSION:
            raise ValueError("it is of another version of localfirst; calibrate again")
        calibration = _read(data)
    except FileNotFoundError:
        raise UsageError(
            f"there is no calibration at {path} yet; make it with `localfirst calibrate JOB.yaml "
            "--labels FILE`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a calibration: {error}") from None
    differs = [name for name in IDENTITY if calibration.identity.get(name) != identity.get(name)]
    if differs:
        raise UsageError(
            f"{path} was made for another job: {', '.join(f'`{d}`' for d in differs)} differ; "
            "run `localfirst calibrate` again"
        )
    return calibration


def _read(data: dict[str, Any]) -> Calibration:
    support, batch = data.pop("support"), data.pop("batch")
    return Calibration(
        sample=[Certifying(**one) for one in data.pop("sample")],
        combiners={name: _combiner(**given) for name, given in data.pop("combiners").items()},
        platt={name: Platt(**given) for name, given in data.pop("platt").items()},
        support=Support.from_json(support) if support is not None else None,
        batch=(batch[0], batch[1]) if batch is not None else None,
        **data,
    )


def _combiner(
    names: list[str], weights: list[float], means: list[float], intercept: float
) -> Combiner:
    return Combiner(tuple(names), tuple(weights), tuple(means), intercept)
