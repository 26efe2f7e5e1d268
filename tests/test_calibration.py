"""Calibration: probabilities that mean what they say, labels that are labels, and the demo."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalation.certify.calibration import (
    IDENTITY,
    NO_ANSWER,
    PEOPLE,
    Calibration,
    Labelled,
    calibrate,
    expected_calibration_error,
)
from escalation.certify.calibration_file import load, save
from escalation.certify.labels import read_labels
from escalation.certify.neighbour_support import Support
from escalation.certify.score_fusion import PROBABILITY, Platt, ScoreFusion, fit_combiner
from runner.answering.scoring import SCORING
from runner.engines.grammars import json_options
from runner.errors import InputError, UsageError
from runner.types import WHOLE, Constraint

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
    return [one(s, draw.random() > s * s) for s in scores]


def one(score: float, wrong: bool, **signals: float) -> Labelled:
    features = {PROBABILITY: score, **signals}
    return Labelled("R-1", {WHOLE: features, "x": features}, wrong, {"x": wrong})


def of(found: Sequence[Labelled], support: Support | None = None) -> Calibration:
    return calibrate(
        found, job="job", identity=OURS, source=PEOPLE, made="2026-01-01", support=support
    )


def made(n: int = 2000) -> Calibration:
    return of(labelled(n))


def test_calibrated_confidence_is_the_share_that_is_right() -> None:
    found = made()
    assert found.error_calibrated < 0.05 < found.error_raw
    fresh = [
        (found.confidences(each.features)[WHOLE], each.wrong) for each in labelled(5000, seed=1)
    ]
    assert expected_calibration_error(fresh) < 0.05


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 20), st.floats(-10, 10))
def test_calibration_keeps_the_order(low: float, high: float, slope: float, shift: float) -> None:
    low, high = sorted((low, high))
    assert 0 <= Platt(slope, shift)(low) <= Platt(slope, shift)(high) <= 1


@pytest.mark.parametrize("wrong", [True, False])
def test_labels_of_one_class_only_still_calibrate(wrong: bool) -> None:
    found = of([one(0.9, wrong)] * 60)
    assert (found.platt[WHOLE](0.9) < 0.1) is wrong


def test_a_falling_fit_never_turns_the_order_around() -> None:
    upside_down = [one(n / 100, n > 50) for n in range(100)]
    assert of(upside_down).platt[WHOLE].slope == 0


def test_answers_that_were_invalid_are_wrong_and_rank_last() -> None:
    found = of([*labelled(50), Labelled("R-51", {}, True)])
    assert min((each.score, each.wrong) for each in found.sample) == (NO_ANSWER, True)
    assert len(found.sample) == 51


def test_a_calibration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    company = Support.of(["R-1"], ["where is my card"], [{WHOLE: "a"}])
    found = replace(made(200), support=company, batch=("digest", [0.5, -1.0]))
    save(found, path)
    again = load(path, OURS)
    assert replace(again, support=None) == replace(found, support=None)
    assert again.support is not None
    asked = ("my card", {WHOLE: "a"}, "new")
    assert again.support.of_answer(*asked) == company.of_answer(*asked)


def telling(n: int, seed: int = 0) -> list[Labelled]:
    """Answers of which a further signal says what the probability does not."""
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        score, support = draw.uniform(0.5, 1), draw.random()
        found.append(one(score, draw.random() > score * support**0.5, support=support))
    return found


def test_a_further_signal_is_learnt_from_labels_that_certify_nothing() -> None:
    labels = telling(1000)
    found = of(labels)
    assert found.training == 200
    assert len(found.sample) == 800
    fresh = telling(3000, seed=1)
    wrong = [not each.wrong for each in fresh]
    from sklearn.metrics import roc_auc_score  # takes seconds to import

    learnt = roc_auc_score(wrong, [found.score(each.features) for each in fresh])
    alone = roc_auc_score(wrong, [each.features[WHOLE][PROBABILITY] for each in fresh])
    assert learnt > alone + 0.05

    # The training labels' own truth is nowhere in what certifies.
    flipped = [replace(each, wrong=not each.wrong) for each in labels[200:]]
    assert of([*labels[:200], *flipped]).combiners == found.combiners


def test_without_a_further_signal_every_label_certifies() -> None:
    found = made(1000)
    assert (found.training, len(found.sample)) == (0, 1000)
    assert found.score({WHOLE: {PROBABILITY: 0.25}}) == pytest.approx(0.25)


def test_too_few_labels_to_learn_from_leave_the_probability_to_rank() -> None:
    found = of(telling(200))
    assert found.training == 0
    low, high = ({WHOLE: {PROBABILITY: p, "support": 1 - p}} for p in (0.6, 0.7))
    assert found.score(low) < found.score(high)


WEIGHTS = st.floats(-5, 5)
SHARES = st.floats(0, 1)


@given(SHARES, SHARES, SHARES, WEIGHTS, WEIGHTS, WEIGHTS)
def test_what_a_look_can_still_change_is_bounded(
    probability: float, seen: float, mean: float, first: float, second: float, shift: float
) -> None:
    names = ("agreement", "p_true", PROBABILITY)
    combiner = ScoreFusion(names, (first, second, 1.0), (mean, mean, 0.0), shift)
    partly = {PROBABILITY: probability, "agreement": 0.3}
    low, high = combiner.bounds(partly)
    for features in (partly, partly | {"p_true": seen}):
        assert low - 1e-12 <= combiner(features) <= high + 1e-12


def test_a_probability_that_seems_to_count_against_an_answer_ranks_alone() -> None:
    rows = [{PROBABILITY: n / 100, "support": n / 100} for n in range(100)]
    combiner = fit_combiner(rows, [n > 50 for n in range(100)])
    assert combiner({PROBABILITY: 0.9, "support": 0.0}) == pytest.approx(0.9)


@pytest.mark.parametrize("part", IDENTITY)
def test_another_jobs_calibration_is_refused(tmp_path: Path, part: str) -> None:
    path = tmp_path / "calibration.json"
    save(made(200), path)
    with pytest.raises(UsageError, match=rf"another job: `{part}` differ.*calibrate` again"):
        load(path, OURS | {part: "changed"})


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"calibration\.json is not a calibration"):
        load(path, OURS)


@pytest.mark.parametrize("change", [{"version": 3}, {"version": 9}, {"scoring": "another"}, None])
def test_scores_made_in_another_way_certify_nothing(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    path = tmp_path / "calibration.json"
    save(made(200), path)
    data = json.loads(path.read_text())
    if change is None:
        del data["scoring"]
    path.write_text(json.dumps(data | (change or {})))
    with pytest.raises(
        UsageError, match=r"computed scores differently .*calibrate` again"
    ) as raised:
        load(path, OURS)
    assert "\n" not in str(raised.value)


def test_how_an_answer_is_held_is_part_of_how_scores_are_made() -> None:
    assert f"white space to {json_options()['max_whitespace_cnt']};" in SCORING


def test_a_missing_calibration_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="surelocal calibrate"):
        load(tmp_path / "calibration.json", OURS)


@pytest.mark.parametrize(
    ("text", "constraint", "sentence"),
    [
        ("id,intent\nR-1,c\n", AS_JSON, "line 2: 'c' does not fit the schema of `intent`"),
        ("id,domain\nR-1,a\n", AS_JSON, "line 2: no column `intent`"),
        ("id,value\nR-1,a\n", AS_JSON, "line 2: the column `value` does not hold a JSON object"),
        ("id,intent\nR-1,a\nR-1,b\n", AS_JSON, "line 3: R-1 was labelled already"),
        ("id,intent\n", AS_JSON, "holds no labels"),
        ("id,intent\n,a\n", AS_JSON, "line 2: the id column `id` is empty"),
        ("id,label\nR-1,c\n", Constraint(labels=("a", "b")), "not one of the job's labels"),
        ("id,intent\nR-1,a\n", Constraint(labels=("a", "b")), "no column `label`"),
        ("id,value\nR-1,a\n", Constraint(), "no single right answer"),
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


def surelocal(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli.main", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "300"},
    )  # fmt: skip


def certified(path: Path, target: float = 0.05) -> str:
    return f"--set=confidence={{target_error: {target}, calibration: {json.dumps(str(path))}}}"


@pytest.mark.process
def test_a_certificate_is_asked_for_before_it_is_made(tmp_path: Path) -> None:
    done = surelocal("validate", "configs/demo/job.yaml", certified(tmp_path / "none.json"))
    assert done.returncode == 2
    assert "there is no calibration at" in done.stderr


@pytest.mark.process
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
    done = surelocal("calibrate", "configs/demo/job.yaml", "--labels", str(labels), where)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not (tmp_path / "c.json").exists()


@pytest.mark.slow
def test_the_demo_keeps_its_certified_error(tmp_path: Path) -> None:
    saved = tmp_path / "calibration.json"
    asked = certified(saved)
    job = "configs/demo/job.yaml"
    done = surelocal("calibrate", job, "--labels", "configs/demo/labels.csv", asked, "--json")
    assert done.returncode == 0, done.stderr
    assert "at most 5.00% of the accepted local answers of this batch" in done.stderr
    [stated] = json.loads(done.stdout)
    assert (stated["labels"], stated["training"]) == (800, 200)
    assert stated["accepted"] > 600
    assert (stated["scope"], stated["population"]) == ("batch", 2466)

    run_dir = tmp_path / "run"
    done = surelocal("run", job, "--run-dir", str(run_dir), asked, "--json", "--limit=1200")
    assert done.returncode == 3, done.stderr
    assert "at most 5.00% of the accepted local answers of this batch" in done.stderr
    with (DEMO / "truth.csv").open(encoding="utf-8") as file:
        truths = list(csv.DictReader(file))
    results = (run_dir / "results.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in results.splitlines()]
    local = [(r, t) for r, t in zip(rows, truths, strict=False) if r["decided_by"] == "local"]
    wrong = [r["value"]["intent"] != t["intent"] for r, t in local]
    assert len(local) > 800
    assert sum(wrong) / len(wrong) <= 0.05
    # Calibrated: the mean confidence is close to the share that is right.
    assert math.isclose(
        sum(r["confidence"] for r, _ in local) / len(local),
        1 - sum(wrong) / len(wrong),
        abs_tol=0.02,
    )

    changed = surelocal(
        "run", job, "--run-dir", str(run_dir), asked, "--set=prompt.user={{ kind }}"
    )
    assert changed.returncode == 2
    assert "was made for another job: `prompt` differ" in changed.stderr
