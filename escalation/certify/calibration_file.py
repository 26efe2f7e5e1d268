"""Saves and loads a calibration as one JSON object, which only its own job accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from escalation.certify.calibration import IDENTITY, Calibration, Certifying
from escalation.certify.classes import apart, joined
from escalation.certify.neighbour_support import Support
from escalation.certify.score_fusion import Platt, ScoreFusion
from runner.answering.scoring import SCORING
from runner.errors import UsageError
from runner.formats.foreign_json import parse
from runner.private import made

VERSION = 4


def save(calibration: Calibration, path: Path) -> None:
    """Writes the file. Raises `UsageError` if it cannot be written."""
    support = calibration.support
    whole = asdict(replace(calibration, support=None, combiners={}, platt={})) | {
        "version": VERSION,
        "scoring": SCORING,
        "combiners": apart({name: asdict(one) for name, one in calibration.combiners.items()}),
        "platt": apart({name: asdict(one) for name, one in calibration.platt.items()}),
        "support": support.as_json() if support is not None else None,
    }
    try:
        made(path).write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot save the calibration to {path}: {error.strerror}") from None


def load(path: Path, identity: Mapping[str, str]) -> Calibration:
    """Reads a calibration that was made for this job.

    Raises:
        UsageError: the file is missing, is no calibration, or was made for another job, model or
            prompt.
    """
    try:
        data: dict[str, Any] = parse(path.read_bytes())
        version, scoring = data.pop("version"), data.pop("scoring", None)
        calibration = _read(data) if (version, scoring) == (VERSION, SCORING) else None
    except FileNotFoundError:
        raise UsageError(
            f"there is no calibration at {path} yet; make it with `surelocal calibrate JOB.yaml "
            "--labels FILE`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not a calibration: {error}") from None
    if calibration is None:
        raise UsageError(
            f"{path} was made by another version of surelocal, which computed scores differently "
            f"(now: {SCORING}); run `surelocal calibrate` again"
        )
    differs = [name for name in IDENTITY if calibration.identity.get(name) != identity.get(name)]
    if differs:
        raise UsageError(
            f"{path} was made for another job: {', '.join(f'`{d}`' for d in differs)} differ; "
            "run `surelocal calibrate` again"
        )
    return calibration


def _read(data: dict[str, Any]) -> Calibration:
    support, batch = data.pop("support"), data.pop("batch")
    return Calibration(
        sample=[Certifying(**one) for one in data.pop("sample")],
        combiners={n: _combiner(**given) for n, given in joined(data.pop("combiners")).items()},
        platt={name: Platt(**given) for name, given in joined(data.pop("platt")).items()},
        support=Support.from_json(support) if support is not None else None,
        batch=(batch[0], batch[1]) if batch is not None else None,
        **data,
    )


def _combiner(
    names: list[str], weights: list[float], means: list[float], intercept: float
) -> ScoreFusion:
    return ScoreFusion(tuple(names), tuple(weights), tuple(means), intercept)
