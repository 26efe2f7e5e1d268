"""Fields, columns, ids, labels and reasons that are called like words of ours change nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from escalation.certify.calibration_file import load
from escalation.certify.labels import read_labels
from runner.events import LOGGER
from runner.formats.json_text import compact
from runner.job.file import load_job
from runner.ledger import open_ledger, read_ledger
from runner.ledger.trail import CONTENT_BYTES, OUTCOME, Entry
from runner.serve.answered import Answered, Took
from runner.serve.telling import log
from runner.types import WHOLE, Completion, Constraint, Outcome, Status, Usage
from tests import jobs, scripted
from tests.fakes import surelocal
from tests.stand_in import StandIn
from tests.words import WORDS

pytestmark = pytest.mark.usefixtures("key")
TOLD = ("x", "y")
NEUTRAL = "intent"
# Where a name is the only property: those that code is most likely to have a meaning for.
ALONE = ["", "label", "value", "answer", "id", "status", "confidence", "decision", "closed", "a.b",
         "reason", "_", "whole", "probability", "decision.value"]  # fmt: skip
LOCAL = {"model": str(jobs.DEMO_MODEL)}


def says(value: Any, probability: float) -> Completion:
    """An answer of one token."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    logprobs = (math.log(probability),)
    return Completion(text, "small", "stop", (text,), logprobs, Usage(9, 1))


def schema_of(*names: str) -> dict[str, Any]:
    rule = {"type": "string", "enum": list(TOLD)}
    return {
        "type": "object",
        "properties": {name: dict(rule) for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def answering(
    patch: pytest.MonkeyPatch, right: Callable[[str], Any], wrong: Callable[[str], Any]
) -> None:
    """A local model that is sure and right, but of ``<U…>``, where it is neither."""

    def answer(text: str) -> Completion:
        name = scripted.name_in(text)
        return says(wrong(name), 0.3) if name.startswith("U") else says(right(name), 0.9999)

    jobs.use_engine(patch, jobs.Scripted(answer))


def api_for(folder: Path, oracle: Callable[[str], Any]) -> StandIn:
    folder.mkdir(exist_ok=True)
    return StandIn(folder, oracle=lambda text: oracle(scripted.name_in(text)))


def verified(run_dir: Path) -> None:
    with read_ledger(run_dir) as ledger:
        assert ledger.prove().problem is None


# -- reasons ------------------------------------------------------------------------------------

REASONS = [word for word in WORDS if word]  # an empty one is none
ROUTES: list[dict[str, Any]] = [
    {"when": f"kind == {to + word!r}", "to": to, "reason": word}
    | ({"answer": {NEUTRAL: "x"}} if to == "template" else {})
    for to in ("closed", "review", "template")
    for word in REASONS
]
ROWS = [
    {"id": f"{to} {word}", "kind": to + word, "message": f"<{to} {word}>"}
    for to in ("closed", "review", "template")
    for word in REASONS
] + jobs.records(["S-1", "U-1"], "local")


def reasons_job(folder: Path, url: str, confidence: Mapping[str, Any], **closed: Any) -> Path:
    return jobs.write_job(
        folder,
        url,
        ROWS,
        {"concurrency": 16, "budget_usd": 50, "timeout_s": 60, **closed},
        answer={"schema": schema_of(NEUTRAL)},
        routes=ROUTES,
        local=LOCAL,
        confidence=confidence,
    )


def check_reasons(ran: jobs.Ran) -> None:
    """Each word's record ended as the rule wants it, and is shown the word."""
    ends = {
        "closed": ("done", "closed", {NEUTRAL: "y"}),
        "review": ("review", None, None),
        "template": ("done", "template", {NEUTRAL: "x"}),
    }
    for to, end in ends.items():
        for word in REASONS:
            row = ran.rows[f"{to} {word}"]
            assert (row["status"], row["decided_by"], row["value"]) == end, row
            assert row["reason"] == word
    verified(ran.run_dir)


@pytest.mark.process
@pytest.mark.parametrize(
    ("lane", "confidence"), [("live", {"threshold": 0.9}), ("batch", {"policy": "budget"})]
)
def test_a_rules_reason_is_shown_and_nothing_hangs_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: str, confidence: dict[str, Any]
) -> None:
    answering(monkeypatch, lambda name: {NEUTRAL: "x"}, lambda name: {NEUTRAL: "x"})
    with api_for(tmp_path, lambda name: {NEUTRAL: "y"}) as api:
        api.batches.seconds = 0
        job = reasons_job(tmp_path / "job", api.url, confidence, lane=lane, batch={"poll_s": 0.01})
        unsent = jobs.run(job, jobs.NO_KEY)
        for word in REASONS:
            row = unsent.rows[f"closed {word}"]
            assert (row["status"], row["reason"]) == ("waiting", word)
        jobs.run(job, again=True)
        collected = surelocal("escalate", job.parent / "run", "--wait")
        assert collected.exit_code == 3, collected.stderr  # the review's
        ran = jobs.Ran(job.parent / "run", unsent.summary, [], jobs.rows_of(job.parent / "run"))
        check_reasons(ran)
        assert ran.rows["U-1"]["decided_by"] == "closed"
        assert ran.rows["S-1"]["status"] == "done"
        assert api.bill.billed_twice() == {} and api.bill.total_usd() == ran.spent
    exported = tmp_path / "queue.jsonl"
    assert surelocal("review", "export", ran.run_dir, exported).exit_code == 0
    rows = list(map(json.loads, exported.read_text("utf-8").splitlines()))
    assert [row["reason"] for row in rows] == REASONS
    assert surelocal("report", ran.run_dir).exit_code == 0


# -- run directories of before ------------------------------------------------------------------


def as_version_4(run_dir: Path) -> None:
    """The ledger as the former version would have left it: rules' reasons where ours are, and a
    trail that says so."""
    database = sqlite3.connect(run_dir / "ledger.sqlite")
    database.executescript(
        "DROP VIEW present; DROP TABLE places; DROP TABLE gone;"
        "UPDATE outcomes SET reason=words WHERE words IS NOT NULL;"
        "UPDATE outcomes SET waits_for='choosing' WHERE reason='expected_loss';"
        "DROP INDEX outcomes_by_end; ALTER TABLE outcomes DROP COLUMN words;"
        "CREATE INDEX outcomes_by_end ON outcomes (status, decided_by, reason, waits_for);"
        "PRAGMA user_version = 4;"
    )
    rows = {
        row[0]: hashlib.sha256(compact(row).encode()).digest()[:CONTENT_BYTES]
        for row in database.execute(
            "SELECT o.position, o.record_id, o.digest, o.status, o.value, o.decided_by, o.reason, "
            "o.confidence, o.field_confidence, o.model, o.cost, o.error, o.closed_estimate, "
            "h.line, h.fields, h.answer, h.expected_loss FROM outcomes o "
            "LEFT JOIN held h USING (position)"
        )
    }
    former = b"\0" * 32
    for row in database.execute("SELECT * FROM trail ORDER BY seq").fetchall():
        entry = Entry(*row)
        content = rows[entry.position or 0] if entry.kind == OUTCOME else entry.content
        values = (entry.seq, entry.at, entry.kind, entry.position, entry.ref, entry.note)
        text = compact([*values, content and content.hex()])
        former = hashlib.sha256(former + text.encode()).digest()
        change = "UPDATE trail SET content=?, hash=? WHERE seq=?"
        database.execute(change, (content, former, entry.seq))
    database.commit()
    database.close()


@pytest.mark.process
def test_a_run_directory_of_before_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lambda name: {NEUTRAL: "x"}, lambda name: {NEUTRAL: "x"})
    with api_for(tmp_path, lambda name: {NEUTRAL: "y"}) as api:
        job = reasons_job(tmp_path / "job", api.url, {"threshold": 0.9})
        run_dir = job.parent / "run"
        jobs.run(job, jobs.NO_KEY)
        as_version_4(run_dir)
        shown = json.loads(surelocal("status", run_dir, "--json").stdout)  # reading is enough
        assert {word: shown["reasons"][word] for word in REASONS} == dict.fromkeys(REASONS, 3) | {
            "unsure": 4, "confident": 4,
        }  # fmt: skip
        verified(run_dir)
        check_reasons(jobs.run(job))
        assert api.bill.billed_twice() == {}


@pytest.mark.process
def test_what_such_a_word_had_decided_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule's ``reason: audit`` ended a record as done, with no answer."""
    answering(monkeypatch, lambda name: {NEUTRAL: "x"}, lambda name: {NEUTRAL: "x"})
    with api_for(tmp_path, lambda name: {NEUTRAL: "y"}) as api:
        job = reasons_job(tmp_path / "job", api.url, {"threshold": 0.9})
        run_dir = job.parent / "run"
        jobs.run(job, jobs.NO_KEY)
        with open_ledger(run_dir) as ledger:
            ledger._db.executescript(
                "DELETE FROM held WHERE position IN (SELECT position FROM outcomes "
                "WHERE record_id='closed audit'); UPDATE outcomes SET status='done', value='null', "
                "decided_by='local', reason='confident', words=NULL, waits_for=NULL "
                "WHERE record_id='closed audit'"
            )
        as_version_4(run_dir)
        check_reasons(jobs.run(job))


# -- fields of the answer -----------------------------------------------------------------------


def field_job(folder: Path, url: str, *names: str, **keys: Any) -> Path:
    rows = jobs.records([f"{kind}-{n}" for kind in "SU" for n in range(4)], "local")
    rows += jobs.records(["C-1"], "closed") + jobs.records(["R-1", "R-2"], "review")
    routes = [*jobs.ROUTES[1:], {"when": "kind == 'review'", "to": "review"}]
    whole = {"local": LOCAL, "routes": routes, "answer": {"schema": schema_of(*names)}, **keys}
    closed = {"timeout_s": 60, "max_tokens": 4096}
    return jobs.write_job(folder, url, rows, closed, **whole)


def renamed(value: Any, name: str) -> Any:
    """A result row's names, back to the neutral one."""
    return {NEUTRAL: value[name]} if isinstance(value, dict) and set(value) == {name} else value


def told(ran: jobs.Ran, name: str) -> dict[str, dict[str, Any]]:
    return {
        row["id"]: {
            key: renamed(value, name)
            for key, value in row.items()
            if key not in ("cost_usd", "confidence")
        }
        for row in ran.rows.values()
    }


def through(folder: Path, patch: pytest.MonkeyPatch, name: str) -> dict[str, dict[str, Any]]:
    """A run of which the only property has this name, a person's decisions in it."""
    answering(patch, lambda _: {name: "x"}, lambda _: {name: "x"})
    with api_for(folder, lambda _: {name: "y"}) as api:
        ran = jobs.run(field_job(folder / "job", api.url, name))
        path = folder / "queue.csv"
        assert surelocal("review", "export", ran.run_dir, path).exit_code == 0
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["id"] for row in rows} == {"R-1", "R-2"}
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(row | {f"decision.{name}": "y"} for row in rows)
        imported = surelocal("review", "import", ran.run_dir, path)
        assert imported.exit_code == 0, imported.stderr
        verified(ran.run_dir)
        found = jobs.Ran(ran.run_dir, ran.summary, [], jobs.rows_of(ran.run_dir))
        return told(found, name)


@pytest.mark.process
@pytest.mark.parametrize("name", ["label", "value", ""])
def test_the_only_field_may_be_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = through(tmp_path, monkeypatch, name)
    by = {"S": ("local", "x", "confident"), "U": ("closed", "y", "unsure"),
          "C": ("closed", "y", "high_stakes"), "R": ("human", "y", "rule")}  # fmt: skip
    for record, row in found.items():
        who, said, why = by[record[0]]
        ended = (row["status"], row["decided_by"], row["value"], row["reason"])
        assert ended == ("done", who, {NEUTRAL: said}, why), record
        sure = {"S": 0.9999, "U": 0.3}.get(record[0])
        assert row["field_confidence"] == ({} if sure is None else {NEUTRAL: sure})


@pytest.mark.process
def test_all_the_fields_may_be_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = dict.fromkeys(WORDS, "x")
    answering(monkeypatch, lambda _: everything, lambda _: everything)
    with api_for(tmp_path, lambda _: dict.fromkeys(WORDS, "y")) as api:
        ran = jobs.run(field_job(tmp_path / "job", api.url, *WORDS))
    for name, row in ran.rows.items():
        if not name.startswith("R"):
            by = "local" if name.startswith("S") else "closed"
            value = dict.fromkeys(WORDS, "x" if by == "local" else "y")
            assert (row["decided_by"], row["value"]) == (by, value), name
        if name[0] in "SU":
            assert set(row["field_confidence"]) == set(WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NEUTRAL, *ALONE])
def test_a_calibration_knows_such_a_field_from_the_whole_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Half of the answers that the model is less sure of are wrong, and of the others none."""
    ids = [f"{'SU'[n % 2]}-{n}" for n in range(120)]
    answering(monkeypatch, lambda _: {name: "x"}, lambda _: {name: "y"})
    confidence = {"target_error": 0.1, "reference": 0, "fields": {name: 0.1}}
    rows = jobs.records(ids, "local")
    keys: dict[str, Any] = {"local": LOCAL, "answer": {"schema": schema_of(name)}, "routes": []}
    job = jobs.write_job(tmp_path / "job", "http://x", rows, confidence=confidence, **keys)
    lines = [f"{i},{'x' if i[0] == 'S' or n % 4 == 3 else 'y'}" for n, i in enumerate(ids)]
    column = f"decision.{name}" if name == "id" else name
    truth = "\n".join([f"id,{column}" if name else 'id,""', *lines])
    labels = job.parent / ("labels.csv" if name else "labels.jsonl")
    if not name:  # a CSV column has a name
        parts = (line.split(",") for line in lines)
        truth = "\n".join(json.dumps({"id": i, "": right}) for i, right in parts)
    labels.write_text(truth + "\n", encoding="utf-8")
    done = surelocal("calibrate", job, "--labels", labels)
    assert done.exit_code == 0, done.stderr
    made = load(job.parent / "calibration.json", load_job(job).job.identity())
    assert [one.wrong for one in made.sample].count(True) == 30
    assert all(one.wrong == one.wrong_fields[name] for one in made.sample)
    assert set(made.platt) == {WHOLE, name}
    ran = jobs.run(job, jobs.NO_KEY)
    assert {i: row["status"] for i, row in ran.rows.items()} == {
        i: "done" if i[0] == "S" else "waiting" for i in ids
    }


# -- labels, texts, columns and ids -------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize("text", ['{"label": "x"}', '{"label": "x", "value": 1}', '["label"]'])
def test_a_text_is_not_unwrapped_for_what_it_looks_like(
    tmp_path: Path, provider: str, text: str
) -> None:
    with StandIn(tmp_path, oracle=lambda _: text) as api:
        escalation = {"provider": provider, "model": "claude-sonnet-5-5", "timeout_s": 60}
        url = api.url
        if provider == "openai":
            escalation |= {"model": "gpt-6.1-sol", "api_key_env": "OPENAI_API_KEY"}
            url += "/v1"
        job = jobs.write_job(
            tmp_path / "job", url, jobs.records(["C-1"]), escalation, answer="text"
        )
        ran = jobs.run(job)
    assert ran.rows["C-1"]["value"] == text


@pytest.mark.process
def test_labels_ids_and_columns_may_be_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [word for word in WORDS if word.strip(" .\"'`")]
    label = {f"<{name}>": names[n - 1] for n, name in enumerate(names)}
    columns = {name: f"of {name}" for name in WORDS if name not in ("", "id", "kind", "message")}
    columns["body"] = {"max_escalation_usd": "nothing", "messages": 3, "model": "theirs"}  # type: ignore[assignment]
    rows = [
        columns | {"id": name, "kind": "closed" if n % 2 else "local", "message": f"<{name}>"}
        for n, name in enumerate(names)
    ]

    def answer(text: str) -> Completion:
        return says(label[text], 0.99)

    jobs.use_engine(monkeypatch, jobs.Scripted(answer))
    with StandIn(tmp_path, oracle=label) as api:
        keys: dict[str, Any] = {"answer": {"labels": names}, "local": LOCAL}
        job = jobs.write_job(
            tmp_path / "job", api.url, rows, {"concurrency": 16, "timeout_s": 60}, **keys
        )
        ran = jobs.run(job)
    assert {name: row["value"] for name, row in ran.rows.items()} == {
        name: label[f"<{name}>"] for name in names
    }
    assert {row["status"] for row in ran.rows.values()} == {"done"}
    for ending in ("csv", "parquet"):
        assert surelocal("export", ran.run_dir, "-o", tmp_path / f"o.{ending}").exit_code == 0


@pytest.mark.parametrize("named", [True, False])
def test_a_clients_id_is_not_taken_for_ours_in_the_log(
    caplog: pytest.LogCaptureFixture, named: bool
) -> None:
    ended = Answered(Outcome(0, "chatcmpl-Ada", Status.DONE), took=Took(named=named))
    with caplog.at_level(logging.INFO, LOGGER.name):
        log(200, 0.1, ended, private=True)
    [told] = caplog.records
    assert told.__dict__["fields"]["record_id"] == (None if named else "chatcmpl-Ada")


@pytest.mark.parametrize("extra", [{}, {"sample": "mine", "decision": "bought", "value": "7 EUR"}])
def test_a_labels_file_may_keep_the_records_own_columns(
    tmp_path: Path, extra: dict[str, str]
) -> None:
    path = tmp_path / "labels.csv"
    names = ["id", *extra, "label", "intent"]
    cells = ["R-1", *extra.values(), "x", "y"]
    path.write_text(f"{','.join(names)}\n{','.join(cells)}\n")
    schema, labels = Constraint(schema=schema_of("intent")), Constraint(labels=TOLD)
    assert dict(read_labels(path, "id", schema)["R-1"].truth) == {"intent": "y"}
    assert dict(read_labels(path, "id", labels)["R-1"].truth) == {WHOLE: "x"}
