"""Calibration: probabilities that mean what they say, labels that are labels, and the demo."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalation.calibration import (
    IDENTITY,
    Calibration,
    Labelled,
    Platt,
    calibrate,
    expected_calibration_error,
    load,
)
from runner.errors import InputError, UsageError
from runner.labels import read_labels
from runner.types import Constraint

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "configs" / "demo"
OURS = {name: f"digest of {name}" for name in IDENTITY}
SCHEMA = {
    "type": "object",
    "properties": {"intent": {"enum": ["a", "b"]}, "count": {"type": "integer"}},
    "required": ["intent"],
}
AS_JSON = Constraint(schema=SCHEMA)


def labelled(n: int, seed: int = 0) -> list[Labelled]:
    """A model that is overconfident: right with probability score squared."""
    draw = random.Random(seed)
    scores = [draw.random() for _ in range(n)]
    return [Labelled(s, w, {"x": (s, w)}) for s in scores for w in [draw.random() > s * s]]


def made(n: int = 2000) -> Calibration:
    return calibrate("job", OURS, labelled(n), "2026-01-01")


def test_calibrated_confidence_is_the_share_that_is_right() -> None:
    found = made()
    assert found.error_calibrated < 0.05 < found.error_raw
    fresh = [(found.platt[""](one.score), one.wrong) for one in labelled(5000, seed=1)]
    assert expected_calibration_error(fresh) < 0.05


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 20), st.floats(-10, 10))
def test_calibration_keeps_the_order(low: float, high: float, slope: float, shift: float) -> None:
    low, high = sorted((low, high))
    assert 0 <= Platt(slope, shift)(low) <= Platt(slope, shift)(high) <= 1


@pytest.mark.parametrize("wrong", [True, False])
def test_labels_of_one_class_only_still_calibrate(wrong: bool) -> None:
    found = calibrate("job", OURS, [Labelled(0.9, wrong, {})] * 60, "2026-01-01")
    assert (found.platt[""](0.9) < 0.1) is wrong


def test_a_falling_fit_never_turns_the_order_around() -> None:
    upside_down = [Labelled(n / 100, n > 50, {}) for n in range(100)]
    assert calibrate("job", OURS, upside_down, "2026-01-01").platt[""].slope == 0


def test_answers_that_were_invalid_are_wrong_and_rank_last() -> None:
    found = calibrate("job", OURS, [*labelled(50), Labelled(-1.0, True, {})], "2026-01-01")
    assert min(found.sample) == (-1.0, True)
    assert len(found.sample) == 51


def test_a_calibration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    found = made(200)
    found.save(path)
    assert load(path, OURS) == found


@pytest.mark.parametrize("part", IDENTITY)
def test_another_jobs_calibration_is_refused(tmp_path: Path, part: str) -> None:
    path = tmp_path / "calibration.json"
    made(200).save(path)
    with pytest.raises(UsageError, match=rf"another job: `{part}` differ.*calibrate` again"):
        load(path, OURS | {part: "changed"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', "no json"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"calibration\.json is not a calibration"):
        load(path, OURS)


def test_a_missing_calibration_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="localfirst calibrate"):
        load(tmp_path / "calibration.json", OURS)


@pytest.mark.parametrize(
    ("text", "constraint", "sentence"),
    [
        ("id,intent\nR-1,c\n", AS_JSON, "line 2: 'c' does not fit the schema of `intent`"),
        ("id,domain\nR-1,a\n", AS_JSON, "line 2: no column `intent`"),
        ("id,value\nR-1,a\n", AS_JSON, "line 2: the column `value` holds no JSON object"),
        ("id,intent\nR-1,a\nR-1,b\n", AS_JSON, "line 3: R-1 was labelled already"),
        ("id,intent\n", AS_JSON, "holds no labels"),
        ("id,intent\n,a\n", AS_JSON, "line 2: the id column `id` is empty"),
        ("id,label\nR-1,c\n", Constraint(labels=("a", "b")), "none of the job's labels"),
        ("id,intent\nR-1,a\n", Constraint(labels=("a", "b")), "no column `label`"),
        ("id,value\nR-1,a\n", Constraint(), "no one right wording"),
    ],
)
def test_labels_that_are_none(
    tmp_path: Path, text: str, constraint: Constraint, sentence: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_labels(path, "id", constraint)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "answer", "wrong"),
    [
        ("id,intent,count\nR-1,a,3\n", {"intent": "a", "count": 3}, []),
        ("id,intent,count\nR-1,a,3\n", {"intent": "b", "count": 3}, ["intent"]),
        ("id,intent\nR-1,\n", {"intent": "a"}, ["intent"]),
        ('id,value\nR-1,"{""intent"": ""a""}"\n', {"intent": "a"}, []),
    ],
)
def test_labels_are_held_against_answers_by_field(
    tmp_path: Path, text: str, answer: dict[str, Any], wrong: list[str]
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    found = read_labels(path, "id", AS_JSON)["R-1"].wrong_fields(answer)
    assert [name for name, is_wrong in found.items() if is_wrong] == wrong


def localfirst(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip


def certified(path: Path, target: float = 0.05) -> str:
    return f"--set=confidence={{target_error: {target}, calibration: {json.dumps(str(path))}}}"


def test_a_certificate_is_asked_for_before_it_is_made(tmp_path: Path) -> None:
    done = localfirst("validate", "configs/demo/job.yaml", certified(tmp_path / "none.json"))
    assert done.returncode == 2
    assert "there is no calibration at" in done.stderr


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            ["T-0001,order_status,home", "T-9999,order_status,home"],
            "does not hold: T-9999 (line 3)",
        ),
        (["T-0001,order_status,home"], "1 labels of records that reach the local model cannot"),
    ],
)
def test_labels_that_can_certify_nothing_cost_no_model(
    tmp_path: Path, rows: list[str], sentence: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["ticket_id,intent,domain", *rows, ""]))
    where = certified(tmp_path / "c.json")
    done = localfirst("calibrate", "configs/demo/job.yaml", "--labels", str(labels), where)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.slow
def test_the_demo_keeps_its_certified_error(tmp_path: Path) -> None:
    saved = tmp_path / "calibration.json"
    asked = certified(saved)
    job = "configs/demo/job.yaml"
    done = localfirst("calibrate", job, "--labels", "configs/demo/labels.csv", asked, "--json")
    assert done.returncode == 0, done.stderr
    assert "at most 5.00% of the accepted local answers are wrong" in done.stderr
    stated = json.loads(done.stdout)
    assert stated["labels"] == 1000
    assert stated["accepted"] > 600

    run_dir = tmp_path / "run"
    done = localfirst("run", job, "--run-dir", str(run_dir), asked, "--json")
    assert done.returncode == 3, done.stderr
    assert "at most 5.00% of the accepted local answers are wrong" in done.stderr
    with (DEMO / "truth.csv").open(encoding="utf-8") as file:
        truths = list(csv.DictReader(file))
    results = (run_dir / "results.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in results.splitlines()]
    local = [(r, t) for r, t in zip(rows, truths, strict=True) if r["decided_by"] == "local"]
    wrong = [r["value"]["intent"] != t["intent"] for r, t in local]
    assert len(local) > 1500
    assert sum(wrong) / len(wrong) <= 0.05
    # Calibrated: the mean confidence is close to the share that is right.
    assert math.isclose(
        sum(r["confidence"] for r, _ in local) / len(local),
        1 - sum(wrong) / len(wrong),
        abs_tol=0.02,
    )

    changed = localfirst(
        "run", job, "--run-dir", str(run_dir), asked, "--set=prompt.user={{ kind }}"
    )
    assert changed.returncode == 2
    assert "was made for another job: `prompt` differ" in changed.stderr
