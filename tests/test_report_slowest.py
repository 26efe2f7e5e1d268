"""The slowest records: kept over all runs of a directory, and shown redacted in its report."""

from __future__ import annotations

import asyncio
import random
import re
from html import unescape
from pathlib import Path

import pytest

from runner.ledger import open_ledger, read_ledger
from runner.pipeline.slowest import KEPT, Slowest
from runner.types import Completion, Prompt, Sampling
from tests import jobs, scripted
from tests.fakes import run_rows, surelocal, write_job
from tests.scripted import name_in

NAME = "Ottokar Wunderlich"
PRIVACY = {"redact": ["customer"], "keep_local": "id == 'R-03'"}
PAUSES = {"R-01": 0.15, "R-03": 0.1, "R-17": 0.2}


class Slow(scripted.Model):
    """Takes its time over some records."""

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Completion:
        await asyncio.sleep(PAUSES.get(name_in(prompt.messages[-1].content), 0))
        return await super().generate(prompt, sampling)


def test_the_longest_of_many_are_kept_over_runs(tmp_path: Path) -> None:
    chance = random.Random(5)
    times = {position: chance.expovariate(1) for position in range(1000)}
    for part in (range(0, 400), range(400, 1000)):
        run = Slowest()
        for position in part:
            run.saw(position, times[position])
        with open_ledger(tmp_path) as ledger:
            run.keep(ledger)
    again = Slowest()
    again.saw(max(times, key=times.__getitem__), 50.0)  # done again, and slower still
    with open_ledger(tmp_path) as ledger:
        again.keep(ledger)
        Slowest().keep(ledger)
    with read_ledger(tmp_path) as ledger:
        found = ledger.meta.slowest
    expected = sorted(times.items(), key=lambda one: -one[1])[:KEPT]
    assert [position for position, _ in found] == [position for position, _ in expected]
    assert found[0][1] == 50.0
    for (_, kept), (_, true) in zip(found[1:], expected[1:], strict=True):
        assert kept == pytest.approx(true, abs=1e-4)


def test_the_report_shows_them_as_the_job_redacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"customer": NAME}
    known = [
        scripted.case(f"R-{n:02}", message=f"<R-{n:02}> this is {NAME}", **text) for n in range(24)
    ]
    jobs.use_engine(monkeypatch, Slow(known))
    job = scripted.job(tmp_path, "http://127.0.0.1:9", known, {"threshold": 0.5}, privacy=PRIVACY)
    jobs.run(job, jobs.NO_KEY, limit=10)  # R-17 comes in another run than the others
    run_dir = jobs.run(job, jobs.NO_KEY).run_dir
    with read_ledger(run_dir) as ledger:
        found = ledger.meta.slowest
    assert [position for position, _ in found[:3]] == [17, 1, 3]
    for (_, seconds), least in zip(found, (0.2, 0.15, 0.1), strict=False):
        assert seconds >= least
    result = surelocal("report", run_dir)
    assert result.exit_code == 0, result.stderr
    page = (run_dir / "report.html").read_text("utf-8")
    [part] = re.findall(r"<summary>Slowest here \(20\)</summary>.*?</details>", page, re.DOTALL)
    words = " ".join(unescape(re.sub(r"<[^>]*>", " ", part)).split())
    assert "until their whole answer was there" in words and "waiting for a turn" in words
    first, second, third = (words.index(name) for name in ("<R-17> this is", "<R-01> this", "R-03"))
    assert first < second < third
    assert "Not shown: this record may not leave the machine." in words[third : third + 200]
    assert NAME not in page


def test_what_needed_no_model_has_no_time(tmp_path: Path) -> None:
    run_rows(write_job(tmp_path, "id,message\n1,a\n"))
    with read_ledger(tmp_path / "run") as ledger:
        assert ledger.meta.slowest == []
    assert surelocal("report", tmp_path / "run").exit_code == 0
    assert "Slowest here" not in (tmp_path / "run" / "report.html").read_text("utf-8")
