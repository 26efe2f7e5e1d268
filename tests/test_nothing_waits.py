"""A courier, an API or a client that stops: said in time, acted on, and the books are right."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from escalation.providers.patience import Patience
from runner.errors import InputError
from runner.formats.database import Database
from runner.pipeline import assemble
from runner.records.database import query_records
from runner.serve.options import Limits
from runner.types import Event, Level
from tests import serving
from tests.jobs import (
    KEY,
    marked,
    query,
    records,
    run,
    spent_usd,
    start,
    wait_until,
    write_job,
)
from tests.silent import Silent
from tests.stand_in import StandIn

SOON = Patience(beat_s=0.2, quiet_s=4.0, slack_s=1.0, end_s=3.0)


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("true_processes")]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr(assemble, "PATIENCE", SOON)


def courier_of(run_dir: Path) -> int:
    return int((run_dir / "courier.lock").read_text())


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Does the work in a thread beside the block."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def states(run_dir: Path) -> dict[str, int]:
    return dict(query(run_dir, "SELECT state, COUNT(*) FROM attempts GROUP BY state"))


# --- the courier ----------------------------------------------------------------------------------


def test_a_stopped_courier_is_replaced_and_the_run_goes_on(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("slow", when=marked("R-0"), seconds=60)
        api.faults.push("slow", when=marked("R-1"), seconds=60)
        job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(20)),
                        {"concurrency": 2, "timeout_s": 100})  # fmt: skip

        def stop() -> None:
            wait_until(lambda: api.in_flight == 2)
            os.kill(courier_of(job.parent / "run"), signal.SIGSTOP)

        with meanwhile(stop):
            ran = run(job)
        (said,) = [s for s in ran.said if "a new one takes over" in s]
        assert "gave no sign of life for 4 s" in said
        assert "2 that it had sent count as spent" in said
        [one] = ran.of(Event.COURIER_LOST)
        assert (one.level, one.fields["lost"], one.fields["deaths"]) == (Level.WARNING, 2, 1)
        lost = {name for name, row in ran.rows.items() if row["status"] != "done"}
        assert lost == {"R-0", "R-1"} and {ran.rows[n]["reason"] for n in lost} == {"reply_lost"}
        assert states(ran.run_dir) == {"unknown": 2, "settled": 18}
        assert len(api.bill.requests()) == 20
    assert api.bill.billed_twice() == {}
    assert ran.spent >= api.bill.total_usd()


def test_a_stopped_courier_of_a_killed_run_is_named_and_ended(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("slow", times=2, seconds=60)
        job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(4)),
                        {"concurrency": 2, "timeout_s": 1})  # fmt: skip
        process = start(job, "--set", "escalation.timeout_s=60")
        wait_until(lambda: api.in_flight == 2)
        pid = courier_of(job.parent / "run")
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        began = time.monotonic()
        ran = run(job)
        assert time.monotonic() - began < 60
        said = " ".join(ran.said)
        assert f"(process {pid}): waiting for them, for 4 s at most" in said
        assert f"process {pid} was to make a former run's paid calls, and is stuck" in said
        found = [(one.event, one.fields["pid"]) for one in ran.notices]
        assert found == [(Event.FORMER_CALLS, pid), (Event.COURIER_LOST, pid)]
        assert states(ran.run_dir) == {"unknown": 2, "settled": 2}
        assert len(api.bill.requests()) == 4
    assert api.bill.billed_twice() == {}
    assert ran.spent >= api.bill.total_usd()


def test_a_run_that_was_itself_stopped_finds_its_courier_well(tmp_path: Path) -> None:
    """As after a machine's sleep: our own silence is nobody's death."""
    with StandIn(tmp_path) as api:
        api.latency = 6.0
        job = write_job(tmp_path / "job", api.url, records(["R-0", "R-1"]), {"timeout_s": 60})
        process = start_patient(job)
        wait_until(lambda: api.in_flight == 2)
        courier = courier_of(job.parent / "run")
        for pid in (process.pid, courier):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(6)  # longer than a courier may be silent
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.3)
        os.kill(courier, signal.SIGCONT)
        assert process.wait(60) == 0
        words = (job.parent / "stderr.txt").read_text()
        assert "sign of life" not in words
        assert states(job.parent / "run") == {"settled": 2}


def start_patient(job: Path) -> subprocess.Popen[bytes]:
    """`surelocal run` as a process, as patient as these tests."""
    code = (
        "from escalation.providers.patience import Patience; "
        "from runner.pipeline import assemble as build; "
        f"build.PATIENCE = {SOON!r}; from runner.cli.main import main; main()"
    )
    with (job.parent / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(
            [sys.executable, "-c", code, "run", str(job), "--run-dir", str(job.parent / "run")],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )


# --- the API --------------------------------------------------------------------------------------


@pytest.mark.parametrize("drip_s", [None, 0.1], ids=["silent", "dripping"])
def test_an_api_that_never_answers_is_said_and_left_alone(
    tmp_path: Path, drip_s: float | None
) -> None:
    with Silent(drip_s) as api:
        job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(40)),
                        {"timeout_s": 1, "retry_for_s": 2, "concurrency": 8})  # fmt: skip
        began = time.monotonic()
        ran = run(job)
        assert time.monotonic() - began < 60
        assert 8 <= api.connections <= 14  # a first wave, then single probes
    (said,) = [s for s in ran.said if "did not answer a request within 1 s" in s]
    assert "counts as spent" in said and "raise `escalation.timeout_s`" in said
    [one] = ran.of(Event.API_SILENT)
    assert (one.level, one.fields["seconds"]) == (Level.WARNING, 1)
    assert states(ran.run_dir) == {"unknown": api.connections}
    assert ran.spent == sum_reserved(ran.run_dir) > 0
    assert set(ran.waits_for().values()) == {"provider_unreachable"}
    assert ran.summary.stopped is not None and "does not answer" in ran.summary.stopped


def sum_reserved(run_dir: Path) -> Decimal:
    from runner.ledger.money import from_pico

    ((total,),) = query(run_dir, "SELECT SUM(reserved) FROM attempts WHERE state='unknown'")
    return from_pico(total)


def test_an_api_that_is_not_there_is_said_at_once_and_truly(tmp_path: Path) -> None:
    with Silent() as gone:
        url = gone.url
    job = write_job(tmp_path / "job", url.replace("://", "://me:secret@"), records(["R-0", "R-1"]),
                    {"retry_for_s": 2, "max_attempts": 50})  # fmt: skip
    ran = run(job)
    host = url.removeprefix("http://")
    (said,) = [s for s in ran.said if f"{host} cannot be reached" in s]
    assert "trying again until" in said and "secret" not in said
    assert set(ran.waits_for().values()) == {"provider_unreachable"} and ran.spent == 0
    assert ran.summary.stopped is not None and "cannot be reached" in ran.summary.stopped


def test_an_api_that_comes_back_is_said_too(tmp_path: Path) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("529", times=6)
        job = write_job(tmp_path / "job", api.url, records(f"R-{n}" for n in range(8)),
                        {"concurrency": 6, "max_attempts": 9, "retry_for_s": 60})  # fmt: skip
        ran = run(job)
    said = [s for s in ran.said if "overloaded" in s or "answers again" in s]
    assert len(said) == 2 and "trying again until" in said[0] and "answers again" in said[1]
    assert ran.summary.unfinished == 0


# --- a database -----------------------------------------------------------------------------------


def test_a_database_that_takes_no_connection_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr("runner.formats.database.CONNECT_S", 2)
    with Silent() as server:
        url = server.url.replace("http", "postgresql") + "/crm"
        asked = query_records(Database(url, tmp_path, "records.url"), "SELECT 1 AS id", "id")
        began = time.monotonic()
        with pytest.raises(InputError, match="timeout"):
            next(asked)
        assert time.monotonic() - began < 20


# --- serve ----------------------------------------------------------------------------------------


def closed_job(folder: Path, url: str, **escalation: Any) -> Path:
    return serving.write(folder, url, escalation={"concurrency": 4, "retry_for_s": 2, **escalation})


def posted(
    url: str, bodies: list[dict[str, Any]]
) -> tuple[list[threading.Thread], list[httpx2.Response]]:
    """All of them at once, each from a client of its own."""
    replies: list[httpx2.Response] = []

    def one(body: dict[str, Any]) -> None:
        with suppress(httpx2.RemoteProtocolError), httpx2.Client(verify=False, timeout=60) as http:
            replies.append(http.post(f"{url}/v1/chat/completions", json=body))

    threads = [threading.Thread(target=one, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    return threads, replies


def asked(url: str, count: int) -> tuple[list[threading.Thread], list[httpx2.Response]]:
    """So many requests at once that the closed model is to answer."""
    return posted(url, [serving.body(f"unsure of {n}") for n in range(count)])


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def joined(threads: list[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
        assert not thread.is_alive()


def test_sigterm_ends_a_server_whose_slots_are_all_stuck(tmp_path: Path) -> None:
    with Silent() as api:
        job = closed_job(tmp_path, api.url, timeout_s=6)
        with ended(serving.start(job, port := free_port())) as process:
            threads, replies = asked(f"http://127.0.0.1:{port}", 9)
            wait_until(lambda: api.connections == 4)
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            joined(threads, 60)
            process.wait(60)
            assert time.monotonic() - began < 6 + 20
    codes = sorted(reply.json()["error"]["code"] for reply in replies)
    assert codes == ["not_certified"] * 4 + ["server_stopping"] * 5
    assert states(job.parent / "run") == {"unknown": 4}
    assert spent_usd(job.parent / "run") == sum_reserved(job.parent / "run") > 0
    waits = dict(query(job.parent / "run", "SELECT waits_for, COUNT(*) FROM outcomes GROUP BY 1"))
    assert waits["stopped"] == 5


def test_a_second_signal_ends_a_server_at_once(tmp_path: Path) -> None:
    with Silent() as api:
        job = closed_job(tmp_path, api.url, timeout_s=50)
        with ended(serving.start(job, port := free_port())) as process:
            threads, _ = asked(f"http://127.0.0.1:{port}", 4)
            wait_until(lambda: api.connections == 4)
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            assert "a second signal ends it at once" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 128 + signal.SIGTERM
            assert "ended at once; what is done is kept" in process.stdout.read()
            joined(threads, 10)
            os.kill(courier_of(job.parent / "run"), signal.SIGKILL)  # its calls take 50 s


def test_a_server_goes_on_after_its_courier_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StandIn(tmp_path) as api:
        api.faults.push("slow", times=2, seconds=60)
        job = closed_job(tmp_path, api.url, timeout_s=50)
        with serving.serving(monkeypatch, job, serving.Echo()) as served:
            threads, replies = asked(served.url, 2)
            wait_until(lambda: api.in_flight == 2)
            os.kill(courier_of(served.run_dir), signal.SIGSTOP)
            joined(threads, 30)
            assert [r.json()["error"]["surelocal"]["reason"] for r in replies] == ["reply_lost"] * 2
            assert any("gave no sign of life" in said for said in served.said)
            threads, replies = asked(served.url, 1)
            joined(threads, 60)
            assert replies[0].status_code == 200, replies[0].text
        assert states(served.run_dir) == {"unknown": 2, "settled": 1}
        assert spent_usd(served.run_dir) >= api.bill.total_usd()


def test_clients_that_are_slow_on_purpose_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(head_s=0.5, head_bytes=20_000, body_s=0.5, taken_s=0.5)
    job = serving.write(tmp_path)
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    whole = begin + b"content-type: application/json\r\ncontent-length: 999\r\n\r\n{"
    cases = {b"": b"408", begin: b"408", whole: b"408", begin + b"x: " + b"a" * 300_000: b"431"}
    with serving.serving(monkeypatch, job, serving.Echo(), limits=limits) as served:
        for sent, status in cases.items():
            with socket.create_connection(("127.0.0.1", served.server.port), 10) as client:
                client.sendall(sent)
                assert client.recv(4096).split()[1] == status
        assert served.ask().choices[0].message.content == "echo of where is my card"
        # Kept alive, and slow with its second request.
        with httpx2.Client(timeout=10) as http:
            assert http.get(served.url + "/health").status_code == 200


def test_a_client_that_reads_nothing_holds_up_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = serving.Echo(says=lambda text: "x" * 30_000_000)
    job = serving.write(tmp_path)
    with serving.serving(monkeypatch, job, engine, limits=Limits(taken_s=0.5)) as served:
        raw = httpx2.Request("POST", served.url, json=serving.body()).content
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/"
            f"json\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        client = socket.create_connection(("127.0.0.1", served.server.port), 10)
        client.sendall(head.encode() + raw)
        assert engine.begun.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    client.close()


def test_one_long_request_freezes_no_other_client(tmp_path: Path) -> None:
    text = "unsure: Jane wrote 0049 170 1234567 to jane@example.org " * 12_000
    body = serving.body(text, metadata={"name": "Jane Smith"})
    with StandIn(tmp_path) as api:
        job = serving.write(
            tmp_path, api.url, privacy={"redact": ["name", "email", "phone"]},
            escalation={"timeout_s": 30},
        )  # fmt: skip
        with ended(serving.start(job, port := free_port())), httpx2.Client(timeout=60) as http:
            url, slowest = f"http://127.0.0.1:{port}", 0.0
            threads, replies = posted(url, [body])
            while threads[0].is_alive():
                began = time.monotonic()
                assert http.get(url + "/health").status_code == 200
                slowest = max(slowest, time.monotonic() - began)
    assert replies[0].status_code == 200, replies[0].text
    assert slowest < 2.0
