"""`surelocal calibrate` seen at work, through deaths of its engine, cut short and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runner.types import Completion, Prompt, Sampling
from tests import scripted
from tests.jobs import use_engine
from tests.scripted import Case, Model, calibrate, cases, name_in
from tests.test_engine_death import World

CASES = cases(560)
LABELLED = CASES[:300]
CONFIDENCE: dict[str, Any] = {
    "target_error": 0.2, "reference": 230, "looks": {"p_true": True, "samples": 2},
}  # fmt: skip
PLAIN = {"target_error": 0.2}
RESUMED = "stopped; what is done is kept: run the same command again to go on"


class Counting(Model):
    """Also counts whose answer it was asked for, and is interrupted by Ctrl-C after so many."""

    def __init__(self, known: list[Case], stop_after: int | None = None) -> None:
        super().__init__(known)
        self.names: Counter[str] = Counter()
        self._stop_after = stop_after
        self._stopped = False

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        if self._stop_after is not None and len(self.names) >= self._stop_after:
            if not self._stopped:  # a second one would end it at once, and this process with it
                os.kill(os.getpid(), signal.SIGINT)
            self._stopped = True
            await asyncio.sleep(60)
        self.names[name_in(" ".join(m.content for m in prompt.messages))] += 1
        return await super().generate(prompt, sampling)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return scripted.job(tmp_path, "http://127.0.0.1:9", CASES, CONFIDENCE)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return scripted.labels(tmp_path, LABELLED)


def asked(patch: pytest.MonkeyPatch, known: list[Case] = CASES, **keys: Any) -> Counting:
    model = Counting(known, **keys)
    use_engine(patch, model)
    return model


def events(stderr: str, name: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, stderr.splitlines()) if line["event"] == name]


def test_it_shows_how_far_it_is(job: Path, labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = asked(monkeypatch)
    model.too_long = lambda kind: kind == "answer" and model.asked["answer"] > 520
    said = calibrate(job, "--labels", labels, "--log-format", "json").stderr
    [started] = events(said, "started")
    last = events(said, "progress")[-1]
    assert started["total"] == last["records"] == last["total"] == 560
    assert last["by"] == {"local": 520, "error": 40} and last["phase"] == "writing"
    assert last["job"] == "small"


def test_a_death_of_its_engine_is_said_and_changes_nothing(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = scripted.job(tmp_path, "http://127.0.0.1:9", CASES, PLAIN)
    made = []
    for name, kills in (("calm", ()), ("killed", (3, 170))):
        use_engine(monkeypatch, World(kills=kills).engine())
        where = tmp_path / name
        said = calibrate(job, "--labels", labels, "-o", where, "--log-format", "json").stderr
        assert len(events(said, "engine_died")) == len(kills)
        assert events(said, "progress")[-1]["engine_restarts"] == len(kills)
        made.append(where.read_bytes())
    assert made[0] == made[1]


@pytest.mark.process
@pytest.mark.parametrize("confidence", [CONFIDENCE, PLAIN], ids=["looks", "whole batch"])
def test_cut_short_it_goes_on_where_it_was(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, confidence: dict[str, Any]
) -> None:
    job = scripted.job(tmp_path, "http://127.0.0.1:9", CASES, confidence)
    once, again = tmp_path / "once.json", tmp_path / "again.json"
    whole = asked(monkeypatch)
    calibrate(job, "--labels", labels, "-o", once)

    first = asked(monkeypatch, stop_after=400)
    stopped = calibrate(job, "--labels", labels, "-o", again, status=130)
    assert RESUMED in stopped.stderr and not again.exists()
    kept = tmp_path / "again.json.answers"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    lines = kept.read_bytes().splitlines()[1:]
    done = {json.loads(line)["id"] for line in lines}
    assert 350 < len(done) == len(lines) <= len(first.names)
    kept.write_bytes(kept.read_bytes() + lines[0][:40])  # as a kill would leave it

    rest = asked(monkeypatch)
    said = calibrate(job, "--labels", labels, "-o", again, "--log-format", "json").stderr
    assert rest.names == Counter({n: k for n, k in whole.names.items() if n not in done})
    assert events(said, "progress")[-1]["resumed"] == len(done)
    assert again.read_bytes() == once.read_bytes()
    assert not kept.exists()


@pytest.mark.process
def test_cut_short_twice_it_keeps_both(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, names = scripted.job(tmp_path, "http://127.0.0.1:9", CASES, PLAIN), Counter[str]()
    for stop_after in (100, 100, None):
        model = asked(monkeypatch, stop_after=stop_after)
        calibrate(job, "--labels", labels, status=130 if stop_after else 0)
        names += model.names
    # Only what was in flight when it was stopped is asked for once more.
    assert len(names) == 560 and sum(names.values()) <= 560 + 2 * model.window


@pytest.mark.process
def test_what_was_not_labelled_then_is_looked_at_now(
    tmp_path: Path, job: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, once = tmp_path / "calibration.json", tmp_path / "once.json"
    asked(monkeypatch, stop_after=500)
    calibrate(job, "--labels", labels, status=130)
    others = scripted.labels(tmp_path, CASES[100:450])
    model = asked(monkeypatch)
    calibrate(job, "--labels", others)
    assert 150 <= model.asked["p_true"] < 250, "the newly labelled, and no other"
    calibrate(job, "--labels", others, "-o", once)
    assert kept.read_bytes() == once.read_bytes()


@pytest.mark.process
def test_what_another_job_left_is_not_used(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = scripted.job(tmp_path, "http://127.0.0.1:9", CASES, PLAIN)
    kept = tmp_path / "calibration.json.answers"
    asked(monkeypatch, stop_after=200)
    calibrate(job, "--labels", labels, status=130)
    of_first = kept.read_bytes()

    other = ("--set", "prompt.system=Answer with the intent alone.")
    model = asked(monkeypatch, stop_after=200)
    calibrate(job, "--labels", labels, *other, status=130)
    assert len(model.names) == 200
    assert kept.read_bytes().splitlines()[0] != of_first.splitlines()[0]
    asked(monkeypatch)
    calibrate(job, "--labels", labels, *other)

    kept.write_bytes(of_first)
    changed = [Case(c.id, c.truth, c.says, c.probability, fields={"n": 1}) for c in CASES[:10]]
    job = scripted.job(tmp_path, "http://127.0.0.1:9", [*changed, *CASES[10:]], PLAIN)
    model = asked(monkeypatch)
    calibrate(job, "--labels", labels)
    assert {case.id for case in changed} <= model.names.keys(), "they are other records now"
    assert len(model.names) < len(CASES)


@pytest.mark.parametrize("from_where", ["the start", "some answer on"])
def test_where_nothing_can_be_kept_it_says_so_and_goes_on(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, from_where: str
) -> None:
    job = scripted.job(tmp_path, "http://127.0.0.1:9", CASES, PLAIN)
    asked(monkeypatch)
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if from_where == "the start":
        (tmp_path / "calibration.json.answers").mkdir()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        said = calibrate(job, "--labels", labels).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert said.count("the answers are not kept") == 1
    assert (tmp_path / "calibration.json").exists()
