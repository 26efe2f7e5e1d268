"""Makes .venv-peers for score.py and runs it: the peers want other versions than .venv has."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
VENV = HERE.parents[2] / ".venv-peers"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".surelocal-ready"
REQUIREMENTS = HERE / "requirements.txt"
TORCH = ("torch", "torchgen", "torch-*.dist-info")
OFFLINE = {"HF_HUB_OFFLINE": "1", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


class PeersError(Exception):
    """One sentence on why the peers have no scores; the benchmark prints it in their row."""


def run(command: Sequence[str], doing: str) -> None:
    """Runs it quietly; where it fails, its last line goes into the sentence."""
    done = subprocess.run(
        command, env=os.environ | OFFLINE, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise PeersError(f"{doing} failed with status {done.returncode}: {last}")


def torch_home() -> Path:
    """The site-packages that torch is in, here where .venv runs."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise PeersError("this Python has no torch to lend to .venv-peers: run it with .venv's.")
    return Path(spec.origin).resolve().parents[1]


def lend_torch(home: Path) -> None:
    """Links it, so that a second gigabyte, and the choice of CPU or CUDA, are spared."""
    [packages] = VENV.glob("lib/python*/site-packages")
    for pattern in TORCH:
        for path in home.glob(pattern):
            (packages / path.name).symlink_to(path)


def peers_python() -> Path:
    """The Python of .venv-peers, which is made where it is missing, unfinished or out of date."""
    home = torch_home()
    made_from = f"{sys.version} {home} {hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}"
    if STAMP.exists() and STAMP.read_text("utf-8") == made_from:
        return PYTHON
    print("peers: making .venv-peers, about 1 minute and 1 GB, once", file=sys.stderr, flush=True)
    try:
        # Always from nothing: pip would take a killed call's halves for installed, and an upgrade
        # of torch would reach through the links into .venv.
        venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as failure:
        raise PeersError(f".venv-peers could not be made: {failure}") from failure
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    run([*pip, "--quiet", "--no-deps", "-r", str(REQUIREMENTS)], "installing the peers' packages")
    lend_torch(home)
    STAMP.write_text(made_from, "utf-8")
    return PYTHON


def peer_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Each peer's scores, by name, in the order of the rows; score.py says what a row holds."""
    python = peers_python()
    with tempfile.TemporaryDirectory() as folder:
        answers, scores = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        answers.write_text("".join(json.dumps(dict(row)) + "\n" for row in rows), "utf-8")
        # -I: the peers' Python sees neither this folder's modules nor PYTHONPATH.
        run([str(python), "-I", str(HERE / "score.py"), str(answers), str(scores)], "score.py")
        found = [json.loads(line) for line in scores.read_text("utf-8").splitlines()]
    return {name: np.array([row[name] for row in found]) for name in found[0]} if found else {}
