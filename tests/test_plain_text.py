"""What customers, providers and paths hold reaches a terminal as text, and as nothing else."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engines.process.process import Started
from runner.errors import JobError, RecordError, UsageError
from runner.observe.display import Display
from runner.observe.meter import Counted, Meter
from runner.plain import one_line, printable
from runner.terminal import console
from runner.types import Event, notice
from tests.fakes import surelocal, write_job

CODES = (
    *map(chr, range(0x09)), *map(chr, range(0x0B, 0x20)), *map(chr, range(0x7F, 0xA0)),
    "\u061c", "\u200e", "\u200f", "\u2028", "\u2029", *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)), "\U000e0041", "\ud800", "\udc9b",
)  # fmt: skip
SHOWN = re.compile("[" + re.escape("".join(CODES)) + "]")
EVIL = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\r\nsurelocal: all is well\u2028[red]x[/red]<i>\x7f"


@settings(deadline=None)
@given(st.text() | st.text(st.sampled_from([*CODES, "a", "\n", "\t", "é", "\U0001f600"])))
def test_no_code_gets_through_and_all_else_stays(text: str) -> None:
    # Two halves side by side are one character wherever a text is read.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    shown = printable(text)
    assert not SHOWN.search(shown) and not SHOWN.search(one_line(text))
    assert "\n" not in one_line(text)
    kept = [c for c in text if not SHOWN.match(c)]
    assert "\\" in text or kept == list(re.sub(r"\\u[0-9a-f]{4}", "", shown))
    as_json = json.dumps({text: text}, ensure_ascii=False)
    assert json.loads(printable(as_json)) == json.loads(as_json)


def test_an_error_is_one_line_however_it_came_to_be() -> None:
    for error in (UsageError(f"no {EVIL}"), RecordError(f"no {EVIL}", "bad_record")):
        assert not SHOWN.search(str(error)) and "\n" not in str(error)
    many = str(JobError(f"{EVIL}.yaml", [f"line 1: {EVIL}", "line 2: x"])).split("\n")
    assert len(many) == 3 and many[0].endswith("2 mistakes")
    assert all(line.startswith("  line ") for line in many[1:])


def fine(said: str) -> None:
    """No code in it, and no line that somebody else began as if it were ours."""
    assert not SHOWN.search(said), (SHOWN.search(said), said)
    assert not re.search("^surelocal: all is well", said, re.MULTILINE)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        {"id": EVIL, "message": EVIL, "to": "template"},
        {"id": f"{EVIL}2", "message": EVIL, "to": "closed"},
        {"id": f"{EVIL}2", "message": "twice", "to": "template"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + f'{{"id": "{EVIL[:4]}\n'
    job = write_job(
        tmp_path, text, f"records{EVIL[:4]}.jsonl",
        answer="text",
        routes=[
            {"when": "to == 'template'", "to": "template", "answer": "{{ message }}"},
            {"when": "true", "to": "closed", "reason": EVIL},
        ],
        escalation={"provider": "openai", "model": f"m{EVIL[:24]}[red]", "base_url": "http://127.0.0.1:9/v1",
                    "api_key_env": "NOBODY_HAS_THIS", "budget_usd": 1,
                    "price": {"input": 1, "output": 1}},
    )  # fmt: skip
    done = surelocal("run", job, "--run-dir", tmp_path / f"run{EVIL[:4]}")
    assert done.exit_code == 3, done.stderr
    fine(done.stdout + done.stderr)
    return tmp_path / f"run{EVIL[:4]}"


COMMANDS = (
    ["status"], ["status", "--json"], ["status", "--egress"], ["status", "--egress", "--json"],
    ["status", "--record", EVIL], ["status", "--record", EVIL, "--json"],
    ["status", "--record", f"{EVIL}2"], ["status", "--record", f"none{EVIL}"],
    ["status", "--verify"], ["status", "--verify", "--json"], ["status", "--curve"],
    ["escalate"], ["report"], ["review", "export", f"q{EVIL}.csv"],
    ["review", "import", f"none{EVIL}.csv"], ["export", "-o", f"x{EVIL[:3]}.csv"],
    ["export", "-o", f"x.{EVIL}"], [EVIL], ["status", f"--{EVIL}"],
)  # fmt: skip


@pytest.mark.process
def test_no_command_lets_one_through(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    for command in COMMANDS:
        verb = 2 if command[0] == "review" else 1
        for more in ([], ["--log-format", "json"]) if command[0] == "escalate" else ([],):
            result = surelocal(*command[:verb], run, *command[verb:], *more)
            fine(result.stdout + result.stderr)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not SHOWN.search(page) and "<i>" not in page


def test_a_file_name_with_codes_in_a_mistake(tmp_path: Path) -> None:
    name = tmp_path / f"job{EVIL.replace('/', '-')}.yaml"
    name.write_text(f'name: x\nlocale: {{model: a}}\n"{EVIL[:5]}k": 1\n'.replace("\x1b", "\\e"))
    result = surelocal("validate", name)
    assert result.exit_code == 2 and len(result.stderr.strip().split("\n")) > 3
    fine(result.stderr)


def test_what_is_laid_out_takes_no_markup_and_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    shown = console(file=file, force_terminal=True, width=100, color_system="truecolor")
    display = Display(shown, Meter(Counted(), 3), "job", f"model{EVIL}")
    with display.watching():
        display.say(notice(Event.WARNING, f"the provider says: {EVIL}"))
        shown.print(display.panel())
    got = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())  # what rich itself has written
    assert "[red]x[/red]" in got and not SHOWN.search(got.replace("\r", "").replace("\n", ""))
    assert "\\u001b[31m" in got


def _tells_of_a_record() -> None:
    os.write(2, f"\x1b[31mwarning\x1b[0m {EVIL}\r50%\r100%\n".encode())
    raise SystemExit


@pytest.mark.slow
def test_what_an_engine_writes(capfd: pytest.CaptureFixture[str]) -> None:
    process = Started(_tells_of_a_record)
    process.status(60)
    process.join(20)
    said = capfd.readouterr().err
    assert "warning" in said and "100%" in said and not SHOWN.search(said)
