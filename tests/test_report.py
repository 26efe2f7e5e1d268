"""The HTML report: its numbers are the ledger's, its texts are redacted, it needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import read_ledger
from runner.pipeline.run import job_of
from runner.report import write_report
from runner.report.evidence import Bin, evidence
from runner.report.facts import Facts, gather
from runner.report.texts import GONE, KEPT, LONGEST, Texts
from runner.types import Record
from tests import jobs, scripted
from tests.fakes import run_rows, surelocal, write_job
from tests.stand_in import StandIn

NAME, MAIL, PHONE = "Ottokar Wunderlich", "o.wunderlich@example.org", "+49 170 1234567"
PRIVACY = {"redact": ["customer"], "keep_local": "id[2:] | int < 20"}
TEXT = f"this is {NAME}, where is my <b>card</b>? Write to {MAIL} or call {PHONE}"
CASES = [
    replace(one, fields={"customer": NAME, "message": f"<{one.id}> {TEXT}"})
    for one in scripted.cases(200, sure_wrong=0.05)
]
Books = tuple[Decimal, int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Books]]:
    """Calibrated by people, audited and escalated; twenty of its records must stay. With what the
    provider's books say: US dollars and requests."""
    folder = tmp_path_factory.mktemp("audited")
    rule = {"target_error": 0.15, "audit": {"rate": 0.5}}
    local = {**scripted.LOCAL, "gpu_usd_per_hour": 3.6}
    with (
        pytest.MonkeyPatch.context() as patch,
        StandIn(folder, oracle=scripted.oracle(CASES)) as api,
    ):
        patch.setenv("ANTHROPIC_API_KEY", jobs.KEY)
        jobs.use_engine(patch, scripted.Model(CASES))
        job = scripted.job(folder / "job", api.url, CASES, rule, privacy=PRIVACY, local=local)
        scripted.calibrate(job, "--labels", scripted.labels(job.parent, CASES[50:150]))
        run_dir = jobs.run(job).run_dir
        yield run_dir, (api.bill.total_usd(), len(api.bill.requests(None)))


@pytest.fixture(scope="module")
def audited(made: tuple[Path, Books]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return in_review(tmp_path_factory.mktemp("uncalibrated"), patch)


def in_review(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Nothing was sent, and what is unsure is for a person."""
    jobs.use_engine(patch, scripted.Model(CASES))
    rule = {"threshold": 0.9, "below": "review"}
    job = scripted.job(folder / "job", "http://localhost:1", CASES, rule, privacy=PRIVACY)
    return jobs.run(job, jobs.NO_KEY).run_dir


def page_of(run_dir: Path) -> str:
    result = surelocal("report", run_dir)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert f"report: {run_dir / 'report.html'}" in result.stderr
    return (run_dir / "report.html").read_text("utf-8")


def facts_of(run_dir: Path) -> Facts:
    with read_ledger(run_dir) as ledger:
        return gather(ledger, run_dir)


class Figures(HTMLParser):
    """What stands in elements with ``data-figure``, and every tag and attribute."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.exact: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._open = given.get("data-figure")
        if self._open and (exact := given.get("data-value")):
            self.exact[self._open] = exact

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[self._open] = data.strip()
            self._open = None


def text_of(page: str) -> str:
    """As a person reads it."""
    body = re.sub(r"<(style|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    body = re.sub(r"</?(span|b|code)\b[^>]*>", "", body)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


# -- numbers ------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("which", ["audited", "uncalibrated"])
def test_every_figure_is_what_status_says(which: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(which)
    figures = Figures(page_of(run_dir))
    status = json.loads(surelocal("status", run_dir, "--json").stdout)
    found = figures.found
    assert found["records"] == f"{status['records']:,}"
    for table, names in (
        ("decided_by", ("template", "local", "closed", "human")),
        ("status", ("waiting", "review", "error")),
    ):
        for name in names:
            assert found[f"{table}.{name}"] == f"{status[table].get(name, 0):,}", name
    ends = [int(n.replace(",", "")) for key, n in found.items() if key.partition(".")[1]
            and key.startswith(("decided_by", "status"))]  # fmt: skip
    assert sum(ends) == status["records"] == 200
    for name in ("spent_usd", "cap_usd", "waiting_estimate_usd", "all_closed_estimate_usd"):
        assert float(figures.exact[name]) == pytest.approx(status[name], abs=1e-12), name
        assert shown(found[name]) == pytest.approx(status[name], rel=0.05, abs=5e-5), name
    assert found["trail.entries"] == f"{status['trail']['entries']:,}"
    assert found["trail.head"] == status["trail"]["head"]
    words = text_of(page_of(run_dir))
    for sentence in status["trust"]:
        assert sentence in words


def shown(text: str) -> float:
    return float(text.replace("$", "").replace(",", "").replace("< ", ""))


@pytest.mark.process
def test_calls_and_spend_are_the_books(made: tuple[Path, Books]) -> None:
    audited, (billed, requests) = made
    facts = facts_of(audited)
    with read_ledger(audited) as ledger:
        total = sum((call.cost_usd for call in ledger.attempts.sent()), Decimal(0))
    assert sum(state.usd for state in facts.calls.states) == total == billed
    assert facts.calls.spend[-1][1] == total == facts.summary.spent_usd
    assert [usd for _, usd in facts.calls.spend] == sorted(usd for _, usd in facts.calls.spend)
    assert facts.calls.count == requests
    assert all(tokens >= 0 for tokens in facts.calls.tokens) and facts.calls.tokens[0] > 0
    [ours, closed, batch, local, blind, oracle] = facts.ways
    assert ours.api_usd == facts.summary.spent_usd + facts.summary.waiting_estimate_usd
    assert closed.api_usd == facts.summary.all_closed_usd == pytest.approx(batch.api_usd * 2)
    assert local.api_usd == 0 < blind.api_usd < closed.api_usd
    assert facts.pace is not None and ours.gpu_usd == local.gpu_usd == oracle.gpu_usd
    assert ours.gpu_usd == Decimal("3.6") * Decimal(str(facts.pace.seconds)) / 3600
    assert closed.gpu_usd == 0 and facts.pace.records == 200
    assert closed.wrong == oracle.wrong == 0 < (ours.wrong or 0) < (blind.wrong or 0)
    assert (blind.wrong or 0) < (local.wrong or 0)


@pytest.mark.process
def test_confidences_and_labels_are_the_certificates(audited: Path) -> None:
    facts = facts_of(audited)
    labels, [certificate] = facts.evidence.labels, facts.evidence.certificates
    assert labels is not None
    assert (labels.count, labels.accepted) == (certificate["labels"], certificate["accepted"])
    assert labels.wrong_accepted == certificate["errors"]
    assert labels.wrong == sum(one.wrong for one in CASES[50:150])
    assert labels.curve[-1] == (1.0, labels.wrong / labels.count)
    at = certificate["accepted"] / certificate["labels"]
    [risk] = [risk for coverage, risk in labels.curve if coverage == pytest.approx(at)]
    assert risk == pytest.approx(certificate["errors"] / certificate["accepted"])
    rows = jobs.rows_of(audited).values()
    known = [row for row in rows if row["confidence"] is not None]
    assert facts.confidences.known == len(known)
    kept = [row for row in known if row["decided_by"] == "local"]
    assert sum(facts.confidences.kept) == len(kept)
    [threshold] = facts.evidence.thresholds.values()
    assert min(row["confidence"] for row in kept) >= threshold - 1e-9
    [(checks, wrong)] = jobs.query(audited, "SELECT COUNT(*), SUM(wrong) FROM audits")
    assert sum(one.count for one in facts.evidence.checked) == checks
    assert sum(one.count - one.right for one in facts.evidence.checked) == wrong


def test_what_people_decided_says_how_often_the_model_was_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncalibrated = in_review(tmp_path, monkeypatch)
    sheet = uncalibrated / "queue.jsonl"
    assert surelocal("review", "export", uncalibrated, sheet).exit_code == 0
    truths = {one.id: one for one in CASES}
    rows = [json.loads(line) for line in sheet.read_text("utf-8").splitlines()]
    queue = [row["id"] for row in rows if row["id"] in truths]
    for row in rows:
        row["decision"] = {"intent": truths[row["id"]].truth}
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = surelocal("review", "import", uncalibrated, sheet)
    assert done.exit_code == 0, done.stderr
    with read_ledger(uncalibrated) as ledger:
        known = evidence(ledger, job_of(uncalibrated, ledger))
    assert sum(one.count for one in known.checked) == len(queue) > 20
    right = sum(one.right for one in known.checked)
    assert right == sum(not truths[name].wrong for name in queue)
    page = page_of(uncalibrated)
    assert 'id="reliability-' in page and 'id="risk-' not in page


def test_an_interval_holds_its_share() -> None:
    for count in (1, 7, 500):
        for right in {0, 1, count // 2, count}:
            low, high = Bin(0.5, count, right).interval
            assert 0 <= low <= right / count <= high <= 1
    assert Bin(0.5, 100, 50).interval == pytest.approx((0.404, 0.596), abs=0.001)


# -- words --------------------------------------------------------------------------------------


def test_uncalibrated_is_said_plainly(uncalibrated: Path) -> None:
    page = page_of(uncalibrated)
    words = text_of(page)
    assert "Uncalibrated: nothing is certified" in words
    assert "How often it is right has not been measured." in words
    assert "There is no labelled random sample" in words
    assert 'id="histogram-' in page and 'id="risk-' not in page and 'id="reliability-' not in page
    named = re.findall(r"(\w+) confidence(?!\.audit)", words)
    assert {"uncalibrated"} == set(named) - {"local", "The", "the", "a"}, named
    assert ">uncalibrated confidence</text>" in page


@pytest.mark.process
def test_a_calibrated_page_draws_everything(audited: Path) -> None:
    page = page_of(audited)
    for name in ("reliability", "risk", "histogram", "spend"):
        assert page.count(f'id="{name}-figure_1"') == 1
    assert "uncalibrated confidence" not in text_of(page)


@pytest.mark.process
def test_a_calibration_that_is_gone_or_new_is_not_used(audited: Path) -> None:
    path = audited.parent / "calibration.json"
    kept = path.read_text("utf-8")
    path.write_text(kept + " ", "utf-8")
    assert "The calibration was made anew since this run" in text_of(page_of(audited))
    path.unlink()
    words = text_of(page_of(audited))
    path.write_text(kept, "utf-8")
    assert "The calibration cannot be read any more" in words and "Certified by" in words


# -- texts --------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("which", ["audited", "uncalibrated"])
def test_no_text_that_is_to_be_redacted(which: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(which)
    page = page_of(run_dir)
    assert [part for part in ("Wunderlich", "Ottokar", MAIL, "1234567") if part in page] == []
    assert "[CUSTOMER]" in page and "[EMAIL_1]" in page and "[PHONE_1]" in page
    assert "where is my &lt;b&gt;card&lt;/b&gt;?" in page
    assert KEPT in page
    samples = facts_of(run_dir).samples
    for found in (samples.unsure, samples.narrow):
        assert len(found) == 20
        assert [one.confidence for one in found] == sorted(one.confidence or 0 for one in found)
        for one in found:
            kept = int(re.sub(r"\D", "", one.shown.name)) < 20
            assert (one.shown.text is None) == kept, one
    assert {one.decided_by for one in samples.narrow} == {"local"}


def test_the_queue_with_both_answers(uncalibrated: Path) -> None:
    queue = facts_of(uncalibrated).samples.queue
    waiting = [name for name, row in jobs.rows_of(uncalibrated).items()
               if row["status"] == "review"]  # fmt: skip
    assert [one.shown.name for one in queue] == waiting[:20]
    said = {one.id: one.says for one in CASES}
    for one in queue:
        if one.shown.text is not None:
            assert one.shown.answers[0] == f"intent: {said[one.shown.name]}"


def test_records_that_changed_are_left_out(uncalibrated: Path) -> None:
    records = uncalibrated.parent / "records.jsonl"
    kept = records.read_text("utf-8")
    records.write_text(kept.replace("Write to", "Mail to"), "utf-8")
    narrow = facts_of(uncalibrated).samples.narrow
    assert {one.shown.why_not for one in narrow} == {GONE}
    # The id of a record that is not there could be what is to be redacted.
    assert all(re.fullmatch(r"record \d+", one.shown.name) for one in narrow)
    records.unlink()
    page = page_of(uncalibrated)
    records.write_text(kept, "utf-8")
    assert GONE in page and GONE not in page_of(uncalibrated)


def test_answers_and_ids_are_redacted_with_the_text(uncalibrated: Path) -> None:
    texts = Texts(facts_of(uncalibrated).job)
    fields = {"customer": NAME, "message": TEXT, "id": "R-100", "kind": "local"}
    answer = {"note": f"Dear {NAME.upper()}", "mail": MAIL}
    shown = texts.shown(Record(0, "R-100", fields, 1), answer, None, f"call {PHONE} <{NAME}>")
    assert shown.answers == (
        "note: Dear [CUSTOMER], mail: [EMAIL_1]", "", "call [PHONE_1] <[CUSTOMER]>"
    )  # fmt: skip
    named = texts.shown(Record(0, f"R-100 {NAME}", {**fields, "id": "R-100"}, 1))
    assert named.name == "R-100 [CUSTOMER]"
    kept = texts.shown(Record(0, f"R-001 {NAME}", {**fields, "id": "R-001"}, 1))
    assert (kept.name, kept.text, kept.why_not) == ("R-001 [CUSTOMER]", None, KEPT)
    broken = texts.shown(Record(6, NAME, {"customer": NAME, "id": "R-100", "kind": "local"}, 7))
    assert (broken.name, broken.text) == ("[CUSTOMER]", None)


def test_a_long_text_is_cut_behind_its_redaction(uncalibrated: Path) -> None:
    texts = Texts(facts_of(uncalibrated).job)
    for before in range(LONGEST - 30, LONGEST + 5):
        message = "x" * before + f" {NAME} and more"
        fields = {"customer": NAME, "message": message, "id": "R-100", "kind": "local"}
        shown = texts.shown(Record(0, "R-100", fields, 1))
        assert shown.text is not None and "Ott" not in shown.text


def test_what_is_unsettled_is_grouped_by_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = ("my card was stolen abroad", "the invoice total looks wrong", "change delivery date")
    known = [
        scripted.case(f"R-{n}", 0.4, customer=NAME, message=f"<R-{n}> {NAME} {about[n % 3]}")
        for n in range(60)
    ]
    jobs.use_engine(monkeypatch, scripted.Model(known))
    rule = {"threshold": 0.9, "below": "review"}
    privacy = {"redact": ["customer"]}
    job = scripted.job(tmp_path / "job", "http://localhost:1", known, rule, privacy=privacy)
    run_dir = jobs.run(job, jobs.NO_KEY).run_dir
    themes = facts_of(run_dir).themes
    assert sum(one.count for one in themes) == 60
    assert sorted(one.count for one in themes) == [20, 20, 20]
    words = {word for one in themes for word in one.words}
    assert {"stolen", "invoice", "delivery"} <= words
    assert not {"ottokar", "wunderlich", "customer"} & words
    assert "20 records, 33.3%" in text_of(page_of(run_dir))


@pytest.mark.process
def test_a_run_in_batches_is_compared_with_live_prices(audited: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(audited, copy)
    database = sqlite3.connect(copy / "ledger.sqlite")
    database.execute("UPDATE attempts SET batch = 1")
    database.commit()
    database.close()
    live, all_batch = facts_of(audited).ways[1], facts_of(copy).ways[1]
    assert live.name == all_batch.name == "All closed"
    assert all_batch.api_usd == pytest.approx(2 * live.api_usd)


# -- the file -----------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("which", ["audited", "uncalibrated"])
def test_the_page_needs_nothing_else(which: str, request: pytest.FixtureRequest) -> None:
    page = page_of(request.getfixturevalue(which))
    figures = Figures(page)
    assert {"script", "link", "img", "iframe", "object", "style"} & {t for t, _ in figures.tags} \
        == {"style"}  # fmt: skip
    for _, given in figures.tags:
        assert not [name for name in given if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            assert (given.get(name) or "#").startswith("#")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]{2})", page)) <= {"#r", "#h", "#s"}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert not re.search(r"#0102\d\d", page)


@pytest.mark.process
def test_the_same_ledger_gives_the_same_page(audited: Path) -> None:
    assert page_of(audited) == page_of(audited)


def test_a_job_that_needs_no_model_at_all(tmp_path: Path) -> None:
    run_rows(write_job(tmp_path, "id,message\n1,a\n,b\n"), status=3)
    words = text_of(page_of(tmp_path / "run"))
    assert "The job names no closed model" in words and "the record cannot be read 1" in words
    assert "No local answer of this run has a confidence." in words


def test_mistakes_are_sentences(tmp_path: Path, uncalibrated: Path) -> None:
    gone = surelocal("report", tmp_path / "gone")
    assert (gone.exit_code, "is not a run directory" in gone.stderr) == (2, True)
    nowhere = surelocal("report", uncalibrated, "-o", tmp_path / "no" / "where.html")
    assert nowhere.exit_code == 1
    assert "cannot write the report to" in nowhere.stderr and "No such file" in nowhere.stderr
    other = surelocal("report", uncalibrated, "-o", tmp_path / "other.html")
    assert other.exit_code == 0 and (tmp_path / "other.html").stat().st_size > 20_000


@pytest.mark.process
def test_the_command_line_loads_no_plots() -> None:
    script = "import sys, runner.cli.main; print({'matplotlib', 'sklearn'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_gpus_price_is_no_part_of_what_a_job_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncalibrated = in_review(tmp_path, monkeypatch)
    before = jobs.query(uncalibrated, "SELECT value FROM meta WHERE key = 'identity'")
    again = jobs.run(uncalibrated.parent / "job.yaml", jobs.NO_KEY, "local.gpu_usd_per_hour=2.25")
    assert jobs.query(again.run_dir, "SELECT value FROM meta WHERE key = 'identity'") == before
    assert facts_of(uncalibrated).job.local.gpu_usd_per_hour == Decimal("2.25")


# -- a million rows -----------------------------------------------------------------------------


def grown(run_dir: Path, folder: Path, copies: int) -> Path:
    """The run with every row that many times more, at new places."""
    shutil.copytree(run_dir, folder)
    (folder / "records.jsonl").unlink(missing_ok=True)
    database = sqlite3.connect(folder / "ledger.sqlite")
    for table, keys in (
        ("outcomes", {"position", "record_id"}), ("held", {"position"}), ("attempts", {"id"}),
    ):  # fmt: skip
        names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        place = {"position": "position + 1000 * n.k", "id": "id + 1000 * n.k",
                 "record_id": "record_id || '-' || n.k"}  # fmt: skip
        values = ", ".join(place[name] if name in keys else name for name in names)
        database.execute(
            f"INSERT INTO {table} SELECT {values} FROM {table}, "
            f"(WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n "
            f"WHERE k < {copies}) SELECT k FROM n) n"
        )
    database.commit()
    database.close()
    return folder


@pytest.mark.process
def test_memory_does_not_grow_with_the_records(audited: Path, tmp_path: Path) -> None:
    def peak(run_dir: Path) -> int:
        tracemalloc.start()
        facts = facts_of(run_dir)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert facts.summary.records == (copies + 1) * 200
        return top

    peaks: list[Any] = []
    for copies in (20, 20, 600):
        peaks.append(peak(grown(audited, tmp_path / f"grown-{len(peaks)}", copies)))
    assert peaks[2] - peaks[1] < 2_000_000, peaks


@pytest.mark.process
def test_it_can_be_written_while_a_run_goes_on(audited: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(audited / "ledger.sqlite")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE meta SET value = value WHERE key = 'job'")
    assert write_report(audited, tmp_path / "now.html").stat().st_size > 20_000
    writer.rollback()
    writer.close()
