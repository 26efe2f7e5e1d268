"""A login in an address works for its requests, and stands in no file and no sentence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.formats.urls import has_login, hidden, showable
from tests.fakes import surelocal
from tests.jobs import records, write_job

PASSWORD = "pw-of-nobody/7:@"
LOGIN = f"name-of-nobody:{quote(PASSWORD, safe='')}"
BASIC = base64.b64encode(f"name-of-nobody:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), BASIC, "name-of-nobody")
ENDS = ["", "/", "/v1", "/v1/?a=b", ":8000/v1", "/a@b"]


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=12),
    st.text(min_size=4, max_size=12),
    st.sampled_from(["http", "https", "postgresql+psycopg", "socks5h"]),
    st.sampled_from(ENDS),
)
def test_no_login_is_showable_or_said(name: str, password: str, scheme: str, end: str) -> None:
    bare = f"{scheme}://host.example{end}"
    login = f"{quote(name, safe='')}:{quote(password, safe='')}"
    url = f"{scheme}://{login}@host.example{end}"
    assert showable(url) == bare and showable(bare) == bare
    assert has_login(url) and not has_login(bare)
    said = f"cannot reach {url}: {login} ({password}) is refused"
    assert login not in hidden(said, url) and f"({password})" not in hidden(said, url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://token-alone@host/v1", "https://host/v1"),
        ("https://user:pa/ss@host/v1", "https://host/v1"),
        ("https://user:pa?ss@host/v1", "https://host/v1"),
        ("https://user:p@ss@host/v1", "https://host/v1"),
        ("//user:pw@host", "//host"),
        ("https://host:8080/v1", "https://host:8080/v1"),
        ("https://[::1]:80/v1", "https://[::1]:80/v1"),
        ("https://host/v1?api-key=abc&x=1", "https://host/v1?api-key=***&x=1"),
        ("https://host/v1?api-version=3", "https://host/v1?api-version=3"),
    ],
)
def test_odd_addresses(url: str, shown: str) -> None:
    assert showable(url) == shown


class _Echo(BaseHTTPRequestHandler):
    """Answers every request, or refuses it with all that it was sent."""

    status = 200
    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).seen.append({k.lower(): v for k, v in self.headers.items()})
        usage = {"input_tokens": 1, "output_tokens": 1}
        text = [{"type": "text", "text": '{"intent": "lost_card"}'}]
        said: dict[str, Any] = {"content": text, "model": "m", "stop_reason": "end_turn"}
        said |= {"type": "message", "role": "assistant", "id": "msg_1", "usage": usage}
        if type(self).status != 200:
            told = f"who is {LOGIN}, or {BASIC}, or {PASSWORD}?"
            said = {"type": "error", "error": {"type": "odd", "message": told}}
        body = json.dumps(said).encode()
        self.send_response(type(self).status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def echo() -> Iterator[tuple[type[_Echo], int]]:
    handler = type("Echo", (_Echo,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, server.server_port
        server.shutdown()


def command(*arguments: object, status: int) -> str:
    ran = surelocal(*arguments)
    assert ran.exit_code == status, ran.stderr
    return ran.stdout + ran.stderr


def everything_in(folder: Path) -> str:
    return "\n".join(
        path.read_bytes().decode("utf-8", "replace")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("job.yaml", "records.jsonl")
    )


@pytest.mark.slow
@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("refused", [False, True], ids=["answered", "refused"])
def test_a_login_in_the_closed_models_address(
    tmp_path: Path, echo: tuple[type[_Echo], int], refused: bool
) -> None:
    handler, port = echo
    handler.status = 403 if refused else 200
    closed = {"daily_budget_usd": 5, "spend_file": str(tmp_path / "spend.sqlite")}
    job = write_job(tmp_path, f"http://{LOGIN}@127.0.0.1:{port}", records(["R-1", "R-2"]), closed)
    run_dir, status = tmp_path / "run", 3 if refused else 0
    said = command("run", job, "--run-dir", run_dir, "--log-format", "json", status=status)
    assert handler.seen and all(one["authorization"] == f"Basic {BASIC}" for one in handler.seen)
    said += command("run", job, "--run-dir", run_dir, status=status)
    for asked in (["--egress"], ["--record", "R-1"], ["--json"], ["--verify"], []):
        said += command("status", run_dir, *asked, status=0)
    said += command("report", run_dir, status=0)
    said += command("doctor", job, "--quick", status=0)
    whole = said + everything_in(tmp_path)
    assert f"http://127.0.0.1:{port}" in whole
    assert [secret for secret in SECRETS if secret in whole] == []
    again = command("escalate", run_dir, status=2)
    assert "run the job again" in again
