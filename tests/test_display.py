"""The run as a person watches it, at 80 and at 120 columns, and where there is no terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from runner.observe import display
from runner.observe.display import Display
from runner.observe.meter import Counted, Meter
from runner.types import DecidedBy, Event, Outcome, Status, notice
from tests.fakes import write_job
from tests.jobs import ROOT, wait_until
from tests.scripted import Clock

DIED = (
    "the engine died (it was killed by the kernel, for want of memory): it is started again with "
    "less memory, and what was in flight (256) is asked again"
)
FACTS = (
    "978,139 of 1,234,567  79.2%", "16,302.3 records/s", "2,057,613 tokens/s", "about 16 s left",
    "local 812,345 83.1%", "template 98,765 10.1%", "closed 54,321 5.6%", "waiting 12,345 1.3%",
    "review 321 0.0%", "errors 42 0.0%", "$4.8124 of $5.00",
    "about $1,234.50 of $1,534.50 all closed", "the engine died and was started again once",
    "running, 60 s",
)  # fmt: skip


def outcome(by: str | None, status: Status = Status.DONE, usd: str = "0.01") -> Outcome:
    decided = DecidedBy(by) if by else None
    return Outcome(0, "R", status, decided_by=decided, closed_estimate=Decimal(usd))


def busy(clock: Clock) -> Meter:
    """A night's run, a minute after its model was loaded."""
    progress = Counted(seen=978_139, generated_tokens=123_456_780)
    meter = Meter(progress, 1_234_567, clock=clock)
    clock.now += 60
    progress.by = {
        "local": 812_345, "template": 98_765, "closed": 54_321, "waiting": 12_345, "review": 321,
        "error": 42,
    }  # fmt: skip
    progress.money = lambda: (Decimal("4.8124"), Decimal("5"))
    progress.saved_usd, progress.all_closed_usd = Decimal("1234.5"), Decimal("1534.5")
    meter.heard(notice(Event.ENGINE_DIED, DIED))
    return meter


def drawn(meter: Meter, width: int, **options: bool) -> list[str]:
    console = Console(
        record=True, width=width, force_terminal=True, file=io.StringIO(), legacy_windows=False,
        **options,
    )  # fmt: skip
    console.print(Display(console, meter, "crm-triage", "claude-sonnet-5-5").panel())
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_wraps_and_nothing_is_cut(width: int) -> None:
    lines = drawn(busy(Clock()), width)
    assert {len(line) for line in lines} == {width}
    assert [fact for fact in FACTS if not any(fact in line for line in lines)] == []
    assert not any("…" in line for line in lines)
    words = " ".join(re.sub(r"[│╭╮╰╯─━╸╺]+", " ", " ".join(lines)).split())
    assert DIED in words  # the sentence goes on in the next line, whole
    assert "crm-triage" in lines[0] and len(lines) <= 13


@pytest.mark.parametrize("width", [80, 120])
def test_each_phase_says_what_it_is(width: int) -> None:
    clock = Clock()
    progress = Counted()
    meter = Meter(progress, 10, clock=clock)

    def phase() -> str:
        return drawn(meter, width)[-1]

    assert "starting" in phase()
    progress.loading = True
    phase()
    clock.now += 75
    assert "loading the model, 75 s" in phase()
    progress.loading, progress.seen = False, 10
    progress.by = {"local": 4}
    assert "running, 75 s" in phase()
    progress.by = {"local": 6, "waiting": 4}
    phase()
    clock.now += 120
    assert "waiting for claude-sonnet-5-5, 2 min" in phase()
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Display(console, meter, "x", "claude-sonnet-5-5", batches=True).panel())
    assert "waiting for claude-sonnet-5-5's batches, 2 min" in console.export_text()
    progress.by = {"local": 6, "closed": 4}
    assert "writing the results" in phase()


def test_a_bar_is_full_only_when_the_last_one_is_there() -> None:
    progress = Counted(seen=2000)
    progress.by = {"local": 1999}
    assert "1,999 of 2,000  99.9%" in drawn(Meter(progress, 2000), 80)[1]
    unknown = "\n".join(drawn(Meter(progress, None), 80))
    assert "1,999 records" in unknown and "%" in unknown


def test_no_colour_takes_colours_away_and_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(width=80, force_terminal=True, file=file)
    console.print(Display(console, busy(Clock()), "crm-triage").panel())
    text = file.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert [fact for fact in FACTS if fact not in plain] == []


def test_what_is_saved_is_what_was_decided_without_the_closed_model() -> None:
    progress = Counted()
    for one in (outcome("local"), outcome("template", usd="0.02"), outcome(None, Status.ERROR)):
        progress.count(one)
    progress.count(outcome(None, Status.WAITING, "0.04"))
    progress.count(outcome(None, Status.WAITING, "0.08"))
    assert (progress.saved_usd, progress.all_closed_usd) == (Decimal("0.03"), Decimal("0.16"))
    progress.resettle(outcome("closed", usd="0.04"))
    assert (progress.saved_usd, progress.all_closed_usd) == (Decimal("0.03"), Decimal("0.16"))
    progress.resettle(outcome("local", usd="0.08"))  # it was audited, and stands
    assert (progress.saved_usd, progress.all_closed_usd) == (Decimal("0.11"), Decimal("0.16"))
    assert progress.by == {"local": 2, "template": 1, "error": 1, "waiting": 0, "closed": 1}


def test_rates_are_of_the_last_half_minute() -> None:
    clock, progress = Clock(), Counted(seen=1)
    meter = Meter(progress, 10_000, clock=clock)
    for _ in range(100):  # ten a second
        clock.now += 1
        progress.by["local"] = progress.by.get("local", 0) + 10
        meter.read()
    assert meter.read().records_per_s == pytest.approx(10)
    for _ in range(31):  # then five
        clock.now += 1
        progress.by["local"] += 5
        found = meter.read()
    assert found.records_per_s == pytest.approx(5)
    assert found.left_s == pytest.approx((10_000 - 1155) / 5)


def test_a_restart_is_counted_by_its_event_and_not_by_its_words() -> None:
    meter = Meter(Counted(), 9)
    meter.heard(notice(Event.REPLICA_WAITS, "replica 2: the engine died 3 times in a row"))
    assert meter.read().engine_restarts == 0
    meter.heard(notice(Event.ENGINE_DIED, "whatever it is called"))
    now = meter.read()
    assert (now.engine_restarts, str(now.last_told)) == (1, "whatever it is called")


def test_without_a_terminal_it_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "PLAIN_EVERY_S", 0.01)
    file = io.StringIO()
    shown = Display(Console(file=file, width=80), busy(Clock()), "crm-triage", "claude")
    with shown.watching():
        wait_until(lambda: file.getvalue().count("\n") > 2)
        shown.say(notice(Event.NO_KEY, "no [key] here"))
    text = file.getvalue()
    assert "\x1b" not in text and "no [key] here\n" in text
    line = text.splitlines()[0]
    for fact in ("978,139 of 1,234,567 records", "local 812,345", "spent $4.8124 of $5.00"):
        assert fact in line


@pytest.mark.process
def test_a_run_on_a_terminal_leaves_its_summary_and_what_others_wrote(tmp_path: Path) -> None:
    """By a real terminal; a line that a library writes to stderr meanwhile is not torn."""
    job = write_job(tmp_path, "id,message\n" + "".join(f"{n},x\n" for n in range(300)))
    script = (
        "import os, sys, time\n"
        "from runner.observe import display\n"
        "from runner.pipeline import outcomes\n"
        "display.LIVE_EVERY_S = 0.02\n"
        "breath = outcomes.Outcomes.by_template\n"
        "def slow(self, case):\n"
        "    if case.record.position == 100:\n"
        "        os.write(2, b'a library says so\\n'); time.sleep(0.3)\n"
        "    return breath(self, case)\n"
        "outcomes.Outcomes.by_template = slow\n"
        "from runner.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", script, "run", str(job), "--run-dir", str(tmp_path / "run")]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    found = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 1 << 16):
                found.extend(chunk)
        except OSError:  # the other end is closed
            pass

    thread = threading.Thread(target=read)
    thread.start()
    ran = subprocess.run(
        command, stderr=theirs, stdout=subprocess.PIPE, cwd=ROOT, env=environment, timeout=60,
        check=False,
    )  # fmt: skip
    os.close(theirs)
    thread.join(10)
    os.close(ours)
    text = found.decode()
    assert ran.returncode == 0, text
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "╭─ small ─" in plain and "of 300" in plain
    assert re.search(r"(?:^|\r)a library says so\r?$", plain, re.MULTILINE), plain
    assert "answered by a template" in plain[plain.index("a library says so") :]
