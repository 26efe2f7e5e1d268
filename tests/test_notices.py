"""What runs tell: every event has its name, its level and true fields, and is documented."""

from __future__ import annotations

import ast
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runner.notices import Event, Level
from surelocal import run as run_from_python
from tests.fakes import surelocal, write_job
from tests.jobs import NO_KEY, ROOT, query, records, run, use_engine
from tests.jobs import write_job as paid_job
from tests.scripted import LOCAL
from tests.silent import Silent
from tests.stand_in import StandIn
from tests.test_batch_lane import SIDES, collect, job
from tests.test_engine_death import World
from tests.test_logs import JSON, documented, named, told

SOURCES = [path for room in ("runner", "escalation") for path in (ROOT / room).rglob("*.py")]


# --- the table ------------------------------------------------------------------------------------


def test_the_documents_have_every_event_and_no_other() -> None:
    found = {name: (row.level, row.when) for name, row in documented().items()}
    assert found == {one.value: (one.level.name.lower(), one.when) for one in Event}


def test_every_event_is_told_somewhere() -> None:
    told = {
        node.attr
        for path in SOURCES if path.stem != "notices"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Event"
    }  # fmt: skip
    assert told == set(Event.__members__)


# --- the local model ------------------------------------------------------------------------------


@pytest.mark.process
def test_an_engines_deaths_are_counted_with_their_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_engine(monkeypatch, World(kills=(2, 5)).engine())
    given = records([f"R-{n}" for n in range(9)], "local")
    path = paid_job(tmp_path, "http://127.0.0.1:9", given, local=LOCAL)
    _, found = told(JSON, "run", path, "--run-dir", tmp_path / "run", "--set", NO_KEY)
    deaths = named(found, "engine_died")
    assert [one["deaths"] for one in deaths] == [1, 2]
    for one in deaths:
        assert (one["level"], one["lacked_memory"]) == ("warning", False)
        assert one["problem"] == "its process was killed (SIGKILL)"
        assert f"({one['problem']})" in one["message"]
        assert f"({one['in_flight']}) is asked again" in one["message"]


def test_what_is_left_out_of_a_file_has_its_line(tmp_path: Path) -> None:
    path = write_job(tmp_path, "A report\n\nid,message\n1,x\n,\n2,y\nid,message\n3,z\n")
    _, found = told(JSON, "run", path, "--run-dir", tmp_path / "run")
    left_out = named(found, "rows_left_out")
    assert [(one["level"], one["line"], one.get("rows")) for one in left_out] == [
        ("warning", 1, 1), ("warning", 5, None), ("warning", 7, None),
    ]  # fmt: skip

    (tmp_path / "records.csv").write_text("id,message\n1,x\n2,other\n4,new\n")
    _, found = told(JSON, "run", path, "--run-dir", tmp_path / "run", "--new-records")
    [changed] = named(found, "records_changed")
    assert [changed[name] for name in ("known", "new", "changed", "gone")] == [1, 1, 1, 1]


# --- the closed model, and the money --------------------------------------------------------------


def test_without_a_key_the_variable_is_named(tmp_path: Path) -> None:
    path = paid_job(tmp_path, "http://127.0.0.1:9", records(["R-1"]))
    _, found = told(JSON, "run", path, "--run-dir", tmp_path / "run", status=3)
    [one] = named(found, "no_key")
    assert (one["level"], one["variable"], one["model"]) == (
        "warning", "ANTHROPIC_API_KEY", "claude-sonnet-5-5",
    )  # fmt: skip


@pytest.mark.process
@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("name", SIDES)
def test_a_batch_is_told_with_its_counts(tmp_path: Path, name: str) -> None:
    with StandIn(tmp_path, oracle=lambda text: "lost_card") as api:
        path = job(tmp_path / "job", api, SIDES[name])
        sent = run(path)
        [first] = sent.of(Event.BATCH)
        done = collect(path)
        [last] = done.of(Event.BATCH)
    assert first.fields["state"] == "sent" and first.fields["requests"] == 6
    assert first.fields["reserved_usd"] > 0 and first.level is last.level is Level.INFO
    assert f"batch {first.fields['batch']}: 6 requests sent" == first.text
    assert (last.fields["batch"], last.fields["state"]) == (first.fields["batch"], "ended")
    assert (last.fields["answered"], last.fields["lost"], last.fields["left"]) == (6, 0, 0)
    assert last.fields["reserved_usd"] == 0
    assert all(isinstance(one.fields["reserved_usd"], Decimal) for one in (first, last))


@pytest.mark.process
@pytest.mark.usefixtures("key")
def test_a_batch_that_may_have_been_made_is_a_warning_about_money(tmp_path: Path) -> None:
    side = SIDES["anthropic"]
    with StandIn(tmp_path, oracle=lambda text: "lost_card") as api:
        api.faults.push("rst_after", endpoint=side.create)
        path = job(tmp_path / "job", api, side, batch={"listed_within_s": 5})
        run_dir = path.parent / "run"
        _, found = told(JSON, "run", path, "--run-dir", run_dir, status=3)
        [unclear] = named(found, "money_unclear")
        held = sum(usd for (usd,) in query(run_dir, "SELECT reserved FROM attempts"))
        [again] = [one for one in collect(path).of(Event.BATCH) if one.fields["state"] == "found"]
    assert "may have been made or not" in unclear["message"]
    assert (unclear["level"], unclear["requests"], unclear["batch"]) == ("warning", 6, "1")
    assert unclear["reserved_usd"] == pytest.approx(held / 1e12) and held > 0
    assert unclear["problem"] in unclear["message"]
    assert again.fields["requests"] == 6 and again.fields["batch"] in again.text


@pytest.mark.process
@pytest.mark.usefixtures("key")
def test_a_batch_that_is_given_up_counts_what_is_lost(tmp_path: Path) -> None:
    side = SIDES["anthropic"]
    with StandIn(tmp_path, oracle=lambda text: "lost_card") as api:
        api.batches.polls = 1000
        path = job(tmp_path / "job", api, side)
        [sent] = run(path).of(Event.BATCH)
        ran = collect(path, wait=False, give_up=[sent.fields["batch"]])
    [given_up] = ran.of(Event.BATCH_GIVEN_UP)
    assert given_up.level is Level.WARNING and given_up.fields["lost"] == 6
    assert given_up.fields["lost_usd"] == sent.fields["reserved_usd"] == ran.spent
    assert given_up.fields["reserved_usd"] == 0


@pytest.mark.process
@pytest.mark.usefixtures("key")
def test_an_api_that_is_not_there_is_told_without_its_login(tmp_path: Path) -> None:
    with Silent() as gone:
        url = gone.url
    path = paid_job(
        tmp_path, url.replace("://", "://me:secret@"), records(["R-1"]), {"retry_for_s": 1}
    )
    result, found = told(JSON, "run", path, "--run-dir", tmp_path / "run", status=3)
    [one] = named(found, "api_unreachable")
    assert (one["level"], one["retry_s"]) == ("warning", 1)
    assert one["host"] == url.removeprefix("http://") and one["problem"] in one["message"]
    assert "secret" not in result.stderr


@pytest.mark.process
@pytest.mark.usefixtures("key")
def test_an_api_that_comes_back_is_told_as_good_news(tmp_path: Path) -> None:
    with StandIn(tmp_path, oracle=lambda text: "lost_card") as api:
        api.faults.push("529", times=6)
        limits = {"concurrency": 6, "max_attempts": 9, "retry_for_s": 60}
        ran = run(paid_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(8)), limits))
    told = [(one.event, one.level, one.fields["host"]) for one in ran.notices]
    host = api.url.removeprefix("http://")
    assert told == [
        (Event.API_OVERLOADED, Level.WARNING, host), (Event.API_BACK, Level.INFO, host),
    ]  # fmt: skip


# --- for people, and from Python ------------------------------------------------------------------


def test_the_default_shows_the_sentence_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = paid_job(tmp_path, "http://127.0.0.1:9", records(["R-1"]))
    run_from_python(path, run_dir=tmp_path / "one")
    run_from_python(path, run_dir=tmp_path / "two", say=print)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2 and len(set(shown)) == 1
    assert shown[0].startswith("no key in ANTHROPIC_API_KEY: nothing will be sent;")
    seen = surelocal("run", path, "--run-dir", tmp_path / "three")
    assert shown[0] in seen.stderr.splitlines()


def test_a_programs_logger_has_event_and_fields(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from runner.events import tell

    path = paid_job(tmp_path, "http://127.0.0.1:9", records(["R-1"]))
    with caplog.at_level("INFO", logger="surelocal"):
        run_from_python(path, run_dir=tmp_path / "run", say=tell)
    [record] = [one for one in caplog.records if one.name == "surelocal"]
    extra: dict[str, Any] = vars(record)
    assert (extra["event"], record.levelname) == (Event.NO_KEY, "WARNING")
    assert extra["fields"]["variable"] == "ANTHROPIC_API_KEY"
