"""`surelocal serve` and money: what is sent, what it costs, and what no crash may lose."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runner.ledger import read_ledger
from runner.results.rows import row
from runner.serve import serving as serving_module
from tests import jobs, scripted
from tests.fakes import read_rows, surelocal
from tests.jobs import KEY, NO_KEY, query, spent_usd, wait_until
from tests.serving import MODEL, Echo, Served, body, serving, start, write
from tests.stand_in import StandIn

pytestmark = pytest.mark.usefixtures("key")


def right(text: str) -> str:
    """The closed model's answer tells whose it is."""
    return f"bought for {text.splitlines()[-1]}"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path, oracle=right) as server:
        yield server


def own(reply: Any) -> dict[str, Any]:
    found: dict[str, Any] = reply.model_extra["surelocal"]
    return found


def code(reply: httpx2.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def books_balance(served: Served, api: StandIn) -> None:
    api.wait_idle()
    assert spent_usd(served.run_dir) == api.bill.total_usd()
    assert api.bill.billed_twice() == {}
    assert query(served.run_dir, "SELECT COUNT(*) FROM attempts WHERE state='reserved'") == [(0,)]


def test_what_is_unsure_is_bought_and_the_books_balance(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, write(tmp_path, api.url), Echo()) as served:
        sure, bought = served.ask("sure"), served.ask("unsure of it")
        assert own(sure)["decided_by"] == "local"
        assert bought.choices[0].message.content == "bought for unsure of it"
        assert bought.model.startswith("claude-sonnet-5-5")
        [request] = api.bill.requests()
        assert own(bought)["decided_by"] == "closed"
        assert own(bought)["reason"] == "unsure"
        assert own(bought)["confidence"] == 0.3
        assert Decimal(str(own(bought)["cost_usd"])) == request.usd
        assert request.usage is not None
        assert bought.usage.completion_tokens == request.usage["output_tokens"]
        stream = list(served.client().chat.completions.create(**body("unsure too"), stream=True))
        words = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert words == "bought for unsure too"
        assert "surelocal_spent_usd 0.0" in served.get("/metrics").text
    books_balance(served, api)


def test_the_same_rows_as_the_batch(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(text: str) -> str:
        return json.dumps({"intent": "lost_card" if "7" in text else "card_arrival"})

    given = [
        *jobs.records([f"R-{n}" for n in range(6)], "local", plan="pro"),
        *jobs.records(["unsure-7", "unsure-8"], "local"),
        *jobs.records(["C-7", "C-8"], "closed"),
        *jobs.records(["T-1"], "template"),
    ]
    api.claude.oracle = lambda text: "card_arrival" if "7" in text else "lost_card"
    closed = {"concurrency": 1, "max_tokens": 64}
    local = {"local": {"model": MODEL}}
    monkeypatch.setattr("runner.pipeline.assemble.engine", lambda job: Echo(says))
    batch = jobs.run(jobs.write_job(tmp_path / "a", api.url, given, closed, **local))
    job = jobs.write_job(tmp_path / "b", api.url, given, closed, **local)
    with serving(monkeypatch, job, Echo(says)) as served:
        for record in given:
            fields = {"kind": record["kind"], "record_id": record["id"]}
            served.post(body(record["message"], metadata=fields))
    result = surelocal("export", served.run_dir, "-o", tmp_path / "rows.csv")
    assert result.exit_code == 0, result.stderr
    with read_ledger(served.run_dir) as ledger:
        rows = {outcome.record_id: row(outcome) for outcome in ledger.outcomes()}
    assert rows == batch.rows
    assert {r["decided_by"] for r in rows.values()} == {"local", "closed", "template"}
    assert spent_usd(served.run_dir) == batch.spent


def test_redaction_holds(tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    job = write(tmp_path, api.url, privacy={"redact": ["first_name", "email"]})
    with serving(monkeypatch, job, Echo()) as served:
        reply = served.ask(
            "unsure: Annabel, ann@example.org, IBAN DE89370400440532013000",
            metadata={"first_name": "Annabel", "email": "ann@example.org"},
        )
    [request] = api.bill.requests()
    for value in ("Annabel", "ann@", "DE89", "record_id"):
        assert value not in request.raw
    assert "[FIRST_NAME]" in request.raw
    assert "Annabel, ann@example.org" in reply.choices[0].message.content
    books_balance(served, api)
    result = surelocal("status", served.run_dir, "--egress")
    assert request.sha256 in result.stdout


def test_at_the_cap_free_work_goes_on(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write(tmp_path, api.url, escalation={"budget_usd": "0.0026", "concurrency": 4})
    with serving(monkeypatch, job, Echo()) as served, ThreadPoolExecutor(8) as pool:
        asked = [body(f"unsure {n}") for n in range(12)]
        replies = list(pool.map(served.post, asked))
        kinds = {reply.status_code for reply in replies}
        assert kinds == {200, 503}
        for reply in replies:
            if reply.status_code == 503:
                assert code(reply) == (503, "budget_exhausted")
                assert reply.headers["x-should-retry"] == "false"
        assert own(served.ask("sure"))["decided_by"] == "local"
        given = served.ask("unsure", surelocal_on_unsure="answer")
        assert own(given)["waits_for"] == "budget"
    books_balance(served, api)
    assert spent_usd(served.run_dir) <= Decimal("0.0026")


def test_without_a_key_it_waits_and_can_be_sent_later(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_prompt = {"system": "Be brief.", "user": "Message: {{ message }}"}
    job = write(tmp_path, api.url, prompt=own_prompt)
    with serving(monkeypatch, job, Echo(), NO_KEY) as served:
        assert code(served.post(body("unsure"))) == (503, "no_key")
        assert code(served.post(body("unsure", stream=True))) == (503, "no_key")
        assert any("no key in NOBODY_HAS_THIS_KEY" in words for words in served.said)
        assert served.get("/health").json()["escalation"] == "no_key"
    assert api.bill.requests() == []
    monkeypatch.setenv("NOBODY_HAS_THIS_KEY", KEY)
    result = surelocal("escalate", served.run_dir)
    assert result.exit_code == 0, result.stderr
    requests = api.bill.requests()
    assert [request.text for request in requests] == ["Message: unsure"] * 2
    assert "Be brief." in requests[0].raw
    answers = read_rows(served.run_dir / "results.jsonl")
    assert {row["surelocal"]["decided_by"] for row in answers} == {"closed"}


def test_a_request_s_own_cap(tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"when": "'lawyer' in message", "to": "closed"}]
    with serving(monkeypatch, write(tmp_path, api.url, routes=rules), Echo()) as served:
        for text in ("unsure", "a lawyer"):
            reply = served.post(body(text, max_escalation_usd=0))
            assert code(reply) == (503, "kept_local")
        assert own(served.ask("sure", max_escalation_usd=0))["decided_by"] == "local"
        reply = served.post(body("unsure", max_escalation_usd="0.000001"))
        assert code(reply) == (503, "too_dear")
        assert "max_escalation_usd" in reply.json()["error"]["message"]
        reply = served.post(body("unsure"), x_surelocal_max_escalation_usd="0.0")
        assert code(reply) == (503, "kept_local")
        assert api.bill.requests() == []
        found = served.ask("unsure of all", max_escalation_usd=0.05)
        assert own(found)["decided_by"] == "closed"
        raw = api.bill.requests()[0].raw
        assert "max_escalation" not in raw
    # What its request did not allow to leave, no later command sends.
    assert surelocal("escalate", served.run_dir).exit_code == 3
    assert len(api.bill.requests()) == 1
    books_balance(served, api)


def test_a_provider_in_trouble_and_well_again(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(monkeypatch, write(tmp_path, api.url), Echo()) as served:
        api.faults.push("401")
        reply = served.post(body("unsure 1"))
        assert code(reply) == (503, "provider_unavailable")
        assert reply.headers["retry-after"] == "15"
        assert served.get("/health").json()["escalation"] == "provider_halted"
        # For a while nothing is tried.
        assert code(served.post(body("unsure 2"))) == (503, "provider_unavailable")
        assert len(api.bill.requests()) == 1
        monkeypatch.setattr(serving_module, "COOL_DOWN_S", 0.0)
        assert own(served.ask("unsure 3"))["decided_by"] == "closed"
        named = body("unsure 4", metadata={"record_id": "R-4"})
        api.faults.push("401")
        assert served.post(named).status_code == 503
        # The same request by the same name is the same record, and is sent now.
        assert served.post(named).status_code == 200
        api.faults.push("rst_after")
        reply = served.post(body("unsure 5"))
        assert code(reply) == (503, "not_certified")
        assert reply.headers["x-surelocal-reason"] == "reply_lost"
    api.wait_idle()
    assert spent_usd(served.run_dir) >= api.bill.total_usd()
    assert query(served.run_dir, "SELECT COUNT(*) FROM outcomes") == [(5,)]


def test_many_at_once_are_bought_for_whom_they_are(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write(tmp_path, api.url, escalation={"concurrency": 16})
    with serving(monkeypatch, job, Echo()) as served, ThreadPoolExecutor(40) as pool:
        texts = [f"unsure {n}" if n % 2 else f"sure {n}" for n in range(80)]
        replies = list(pool.map(lambda text: served.post(body(text)).json(), texts))
    for text, reply in zip(texts, replies, strict=True):
        said = reply["choices"][0]["message"]["content"]
        assert said == (f"bought for {text}" if "unsure" in text else f"echo of {text}")
    assert len(api.bill.requests()) == 40
    books_balance(served, api)


def leave_after(served: Served, asked: dict[str, Any], until: Any) -> None:
    """Asks, and goes when that has come about."""
    raw = json.dumps(asked).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n"
        "content-type: application/json\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.server.port)) as connection:
        connection.sendall(head.encode() + raw)
        wait_until(until)


def test_what_was_sent_is_settled_for_a_client_that_has_gone(
    tmp_path: Path, api: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.latency = 0.3
    with serving(monkeypatch, write(tmp_path, api.url), Echo(pause_s=0.2)) as served:
        leave_after(served, body("unsure 1"), lambda: api.in_flight)
        wait_until(lambda: query(served.run_dir, "SELECT status FROM outcomes") == [("done",)])
        # Gone before anything of it is sent: then nothing is.
        leave_after(served, body("unsure 2"), lambda: served.get("/health").json()["at_work"])
        wait_until(lambda: not served.get("/health").json()["at_work"])
        found = query(served.run_dir, "SELECT status, waits_for FROM outcomes")
        assert found == [("done", None), ("waiting", "client_gone")]
        assert len(api.bill.requests()) == 1
    books_balance(served, api)
    assert "their clients had gone" in surelocal("status", served.run_dir).output


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def post(port: int, asked: dict[str, Any]) -> httpx2.Response | None:
    with httpx2.Client(verify=False, timeout=20) as http:
        try:
            return http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asked)
        except httpx2.HTTPError:
            return None


def test_killed_and_started_again_it_has_lost_nothing_paid(tmp_path: Path, api: StandIn) -> None:
    api.latency = 0.4
    job, port, run_dir = write(tmp_path, api.url), free_port(), tmp_path / "run"
    asked = [body(f"unsure {n}", metadata={"record_id": f"R-{n}"}) for n in range(30)]
    with ThreadPoolExecutor(30) as pool:
        for _ in range(2):
            process = start(job, port)
            before = len(api.bill.requests())
            replies = [pool.submit(post, port, each) for each in asked]
            wait_until(lambda before=before: len(api.bill.requests()) > before + 5)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            assert any(reply.result() is None for reply in replies)
        process = start(job, port)
        answers = list(pool.map(lambda each: post(port, each), asked))
    process.terminate()
    assert process.wait(20) == 0
    assert process.stdout is not None
    process.stdout.close()
    for n, answer in enumerate(answers):
        assert answer is not None
        said = answer.json()["choices"][0]["message"]["content"]
        assert said == f"bought for unsure {n}"
    requests = api.bill.requests()
    assert len({request.text for request in requests}) == len(requests) == 30
    assert spent_usd(run_dir) == api.bill.total_usd() > 0
    assert query(run_dir, "SELECT COUNT(*) FROM outcomes") == [(30,)]
    assert surelocal("status", run_dir, "--verify").exit_code == 0
    assert "Traceback" not in (tmp_path / "stderr.txt").read_text()


def test_told_to_stop_it_finishes_what_was_begun(tmp_path: Path, api: StandIn) -> None:
    api.latency = 0.6
    job, port = write(tmp_path, api.url), free_port()
    process = start(job, port)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, port, body("unsure"))
        wait_until(lambda: api.in_flight)
        process.terminate()
        found = reply.result()
    assert process.wait(20) == 0
    assert process.stdout is not None
    process.stdout.close()
    assert found is not None and found.status_code == 200
    assert post(port, body()) is None
    assert spent_usd(tmp_path / "run") == api.bill.total_usd() > 0
    assert (tmp_path / "stderr.txt").read_text() == ""


# --- with a certificate ---------------------------------------------------------------------------


@pytest.mark.process
def test_a_certified_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = scripted.cases(400, sure_wrong=0.0)
    extra = [scripted.case("sure-and-wrong", 0.999, wrong=True), scripted.case("odd", 0.3)]
    model = scripted.Model([*known, *extra])
    with StandIn(tmp_path, oracle=scripted.oracle([*known, *extra])) as api:
        audited = {"target_error": 0.1, "audit": {"rate": 1.0}}
        job = scripted.job(tmp_path, api.url, known, audited)
        monkeypatch.setattr("runner.pipeline.assemble.engine", lambda job: model)
        scripted.calibrate(job, "--labels", scripted.labels(tmp_path, known))
        with serving(monkeypatch, job, model) as served:
            sure = next(one for one in known if one.probability and one.probability > 0.99)
            message = f"<{sure.id}> where is my card"
            found = served.ask(message, temperature=1)
            assert own(found)["calibrated"] is True
            assert own(found)["decided_by"] == "local"
            # An accepted answer that the audit finds wrong is replaced, as in a run.
            found = served.ask("<sure-and-wrong> where is my card")
            assert (own(found)["decided_by"], own(found)["reason"]) == ("closed", "audit")
            assert own(served.ask("<odd> where is my card"))["decided_by"] == "closed"
            system = {"role": "system", "content": "Answer with the intent."}
            user = body(message)["messages"][0]
            assert served.post(body() | {"messages": [system, user]}).status_code == 200
            for messages in ([{**system, "content": "Else."}, user], [user, system, user]):
                reply = served.post(body() | {"messages": messages})
                assert code(reply) == (400, "invalid_request")
                assert "certificate" in reply.json()["error"]["message"]
            shown = served.get("/metrics").text
            assert "surelocal_audited 3.0" in shown and "surelocal_audited_wrong 1.0" in shown
            assert "surelocal_audit_alarms 0.0" in shown
            while "surelocal_audit_alarms 0.0" in served.get("/metrics").text:
                assert own(served.ask("<sure-and-wrong> where"))["reason"] == "audit"
            assert "surelocal_audit_alarms 1.0" in served.get("/metrics").text
        api.wait_idle()
        assert spent_usd(served.run_dir) == api.bill.total_usd()
        stated = json.loads(query(served.run_dir, "SELECT value FROM meta WHERE key='audit'")[0][0])
        assert (stated["checked"] - stated["wrong"], stated["alarms"]) == (2, 1)
