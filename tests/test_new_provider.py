"""A new provider is one file and one line of the table: `tests.third_api` is added by its line, and
a job pays it."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner import keys
from runner.job.escalation import Escalation
from runner.job.providers import PROVIDERS, key_variables
from runner.machine.doctor import examine
from tests.fakes import surelocal
from tests.jobs import KEY, ROOT, records, run, write_job
from tests.test_doctor import machine
from tests.third_api import ENTRY, MODEL, READ, WROTE, Server

ANSWER = '{"intent": "lost_card"}'
NAMES = ["R-1", "R-2", "R-3"]
INPUT, OUTPUT = Decimal("1.50"), Decimal(9)
"""Of `MODEL`, in the section of the price list that its line names."""


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "third", ENTRY)


def third_job(folder: Path, url: str, **more: Any) -> Path:
    return write_job(folder, url, records(NAMES), {"provider": "third", "model": MODEL, **more})


@pytest.mark.process
def test_a_job_pays_a_provider_that_is_a_file_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THIRD_API_KEY", KEY)
    with Server(ANSWER, KEY) as api:
        ran = run(third_job(tmp_path, api.url))
    assert ran.ends() == dict.fromkeys(NAMES, ("done", "high_stakes"))
    assert {row["value"]["intent"] for row in ran.rows.values()} == {"lost_card"}
    assert [key for key, _ in api.asked] == [KEY] * 3
    assert ran.spent == 3 * (INPUT * READ + OUTPUT * WROTE) / 10**6
    shown = surelocal("status", ran.run_dir, "--egress", "--json").stdout.splitlines()
    left = [json.loads(line) for line in shown]
    assert {(each["provider"], each["model"], each["url"]) for each in left} == {
        ("third", MODEL, api.url)
    }
    bodies = {hashlib.sha256(body).hexdigest(): len(body) for _, body in api.asked}
    assert {each["sha256"]: each["bytes"] for each in left} == bodies
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@pytest.mark.process
def test_a_key_that_it_refuses_stops_the_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THIRD_API_KEY", "another")
    with Server(ANSWER, KEY) as api:
        ran = run(third_job(tmp_path, api.url, concurrency=1))
    assert set(ran.waits_for()) == set(NAMES)
    assert len(api.asked) == 1 and ran.spent == 0


def test_without_its_key_the_records_wait(tmp_path: Path) -> None:
    ran = run(third_job(tmp_path, "http://127.0.0.1:9"))
    assert ran.waits_for() == dict.fromkeys(NAMES, "no_key")
    assert any("no key in THIRD_API_KEY" in line for line in ran.said)


def test_what_its_line_says_need_not_stand_in_the_job() -> None:
    made = Escalation.model_validate({"provider": "third"})
    assert (made.model, made.api_key_env) == (MODEL, "THIRD_API_KEY")
    assert made.address == "https://api.third.example"


@pytest.mark.parametrize("given", [{"lane": "batch"}, {"lane": "auto"}])
def test_it_is_asked_for_no_batches_that_it_has_not(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`provider: third` has no batches"):
        Escalation.model_validate({"provider": "third", **given})


def test_no_engine_sees_its_key_and_the_doctor_looks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THIRD_API_KEY", KEY)
    assert "THIRD_API_KEY" not in keys.environment()
    assert examine(machine(), deep=False).keys["THIRD_API_KEY"]


def test_a_name_that_is_not_in_the_table_is_told_which_are() -> None:
    with pytest.raises(ValueError, match="'anthropic', 'openai', 'local' or 'third'"):
        Escalation.model_validate({"provider": "fourth", "model": "m", "api_key_env": "K"})


def test_the_documents_name_every_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PROVIDERS, "third")
    text = (ROOT / "docs" / "closed-models.md").read_text("utf-8")
    assert [name for name in (*PROVIDERS, *key_variables()) if f"`{name}`" not in text] == []
