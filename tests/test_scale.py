"""What must not grow with the records, and records that are large themselves, the whole way."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import read_ledger
from runner.types import Completion
from scripts.bench import scale
from tests import fakes, jobs

FEW, MANY = 2_000, 20_000
# 18,000 records kept whole are more; the page cache of the ledger, still filling, is less.
MOST_MB = 14
FORMATS = ("csv", "jsonl")
WIDE = {f"column_{n}": f"Wert {n}, “größer” als {n}" for n in range(200)}
LONG = 'He wrote: "no, ünd\nagain".\n' * 4_000
EVERYTHING = "{% for name, value in record.items() %}{{ name }}={{ value }}|{% endfor %}"
ASIDE = {"when": "kind == 'closed'", "to": "closed", "reason": "by_rule"}
TEMPLATE = {"when": "kind == 'template'", "to": "template", "answer": "{{ last }}"}


@pytest.mark.process
@pytest.mark.parametrize("kind", scale.KINDS)
def test_memory_does_not_grow_with_the_records(tmp_path: Path, kind: str) -> None:
    peaks = {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        ran = scale.run(folder, count, kind, "csv")
        again = scale.measure("run", folder / "job.yaml", "--run-dir", folder / "run")
        rows = (folder / "run" / "results.jsonl").read_bytes()
        assert rows.count(b"\n") == count
        assert ran["status"] == again["status"] == (3 if kind == "scripted" else 0)
        peaks[count] = ran["mb"], again["mb"]
    assert peaks[MANY][0] - peaks[FEW][0] < MOST_MB
    assert peaks[MANY][1] - peaks[FEW][1] < MOST_MB


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.process
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("large", [WIDE, {"message": LONG}], ids=["wide", "long"])
def test_a_large_record_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: dict[str, str], ending: str
) -> None:
    assert len(large) == 200 or len(LONG) > 100_000
    rows = [
        {"id": f"{kind}-{n}", "kind": kind, **large, "last": f"last {n}"}
        for n, kind in enumerate(["local", "template", "closed", "local"])
    ]
    engine = fakes.ScriptedEngine(lambda text: answer(text, rows))
    jobs.use_engine(monkeypatch, engine)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    job = fakes.write_job(
        tmp_path,
        "",
        f"records.{ending}",
        prompt={"user": EVERYTHING},
        local={"model": str(jobs.DEMO_MODEL)},
        routes=[ASIDE, TEMPLATE],
        confidence={"threshold": 0.9},
        escalation={"provider": "anthropic", "model": "claude-sonnet-5-5", "budget_usd": 1},
    )
    write(tmp_path / f"records.{ending}", rows)
    found = fakes.run_rows(job, status=3)
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["status"] for row in found] == ["done", "done", "waiting", "waiting"]
    assert found[1]["value"] == "last 1"
    assert engine.asked == [rendered(rows[0]), rendered(rows[3])]
    with read_ledger(tmp_path / "run") as ledger:
        for position in (2, 3):
            held = ledger.held(position)
            assert held is not None
            assert held.record.fields == rows[position]
        assert ledger.prove().problem is None
    assert fakes.run_rows(job, status=3) == found
    assert len(engine.asked) == 2


def rendered(row: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}|" for name, value in row.items())


def answer(text: str, rows: list[dict[str, Any]]) -> Completion:
    """The last one is unsure."""
    return fakes.completion("yes", (-3.0 if text == rendered(rows[3]) else -0.001,))
