"""Traces as an OTLP collector gets them: by HTTP and protobuf, with figures and without texts."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runner.observe import tracing as telemetry
from runner.observe.tracing import Off, Spans
from runner.types import Notice
from tests.fakes import surelocal, write_job
from tests.serving import MODEL, Echo, body, serving, write
from tests.stand_in import StandIn

SECRET = "the secret word"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Collector:
    """What a collector on loopback was sent; ``spans`` by name."""

    url: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    raw: bytes = b""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def services(self) -> set[str]:
        return {
            attributes(resource.resource)["service.name"]
            for request in self.requests
            for resource in request.resource_spans
        }


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: value(one.value) for one in span.attributes}


def value(given: Any) -> Any:
    kind = given.WhichOneof("value")
    if kind == "array_value":
        return [value(one) for one in given.array_value.values]
    return getattr(given, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                raw = gzip.decompress(raw)
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            found.requests.append(ExportTraceServiceRequest.FromString(raw))
            found.raw += raw
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def test_a_request_is_a_span_with_its_parts_in_its_clients_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    job = write(tmp_path, privacy={"redact": ["email"]})
    with serving(monkeypatch, job, Echo()) as served:
        served.post(body(SECRET), traceparent=PARENT)
        served.post(body(f"unsure of {SECRET}"), x_record_id="ann@example.org")
        served.post(f"{{{SECRET}".encode())
    first, second, third = collector.named("chat")
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT.split("-")[2])
    assert second.trace_id.hex() != TRACE and not second.parent_span_id
    assert first.kind == first.SPAN_KIND_SERVER
    told = attributes(first)
    assert told == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions",
        "http.response.status_code": 200, "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "surelocal", "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL, "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3, "surelocal.status": "done",
        "surelocal.decided_by": "local", "surelocal.reason": "confident",
        "surelocal.confidence": 0.99, "surelocal.cost_usd": 0.0,
    }  # fmt: skip
    told = attributes(second)
    assert (told["http.response.status_code"], told["error.type"]) == (503, "503")
    assert told["surelocal.status"] == "review" and "surelocal.decided_by" not in told
    assert attributes(third)["http.response.status_code"] == 400

    parts = {one.name: one for one in collector.spans if one.parent_span_id == first.span_id}
    assert parts.keys() == {"route", "generate", "check", "decide"}
    assert attributes(parts["route"]) == {"surelocal.route": "local"}
    assert attributes(parts["check"]) == {"surelocal.valid": True}
    told = attributes(parts["generate"])
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (7, 3)
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    for part in parts.values():
        assert first.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= first.end_time_unix_nano
    assert len(collector.named("load")) == 1
    assert collector.services() == {"surelocal"}
    assert SECRET.encode() not in collector.raw and b"ann@" not in collector.raw


@pytest.mark.usefixtures("key")
def test_an_escalation_is_a_span_with_what_was_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: StandIn, collector: Collector
) -> None:
    from tests.jobs import KEY, spent_usd

    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-shift")
    with serving(monkeypatch, write(tmp_path, api.url), Echo()) as served:
        assert served.post(body(f"unsure of {SECRET}")).status_code == 200
    [request] = collector.named("chat")
    [escalation] = collector.named("escalate")
    assert escalation.parent_span_id == request.span_id
    told, whole = attributes(escalation), attributes(request)
    assert told["gen_ai.provider.name"] == "anthropic"
    assert told["gen_ai.request.model"] == "claude-sonnet-5-5"
    assert told["gen_ai.usage.input_tokens"] > 0 and told["gen_ai.usage.output_tokens"] > 0
    assert whole["surelocal.decided_by"] == "closed"
    assert whole["gen_ai.response.model"] == "claude-sonnet-5-5"
    assert whole["surelocal.cost_usd"] == pytest.approx(float(spent_usd(served.run_dir)))
    assert collector.services() == {"night-shift"}
    assert SECRET.encode() not in collector.raw and KEY.encode() not in collector.raw


@pytest.mark.process
def test_texts_are_in_no_span_not_even_where_things_go_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("runner.serve.server.begin_tracing", lambda say: Spans(provider))
    routes = [{"when": f"kind == '{SECRET}'", "to": "template", "answer": "{{ kind }}"}]

    def says(text: str) -> str:
        if "break" in text:
            raise ValueError(text)
        return text

    with serving(monkeypatch, write(tmp_path, routes=routes), Echo(says)) as served:
        replies = [
            served.post(body(f"hello {SECRET}")),
            served.post(body(f"hello {SECRET}", metadata={"kind": SECRET})),
            served.post(body("x", metadata={"record_id": SECRET * 20})),
            served.post(body(f"break {SECRET}")),
        ]
    assert [reply.status_code for reply in replies] == [200, 200, 400, 500]
    found = exporter.get_finished_spans()
    assert {"chat", "route", "generate"} <= {span.name for span in found}
    for span in found:
        assert SECRET not in span.to_json() and not span.events


@pytest.mark.process
def test_a_run_is_one_span(tmp_path: Path, collector: Collector) -> None:
    job = write_job(tmp_path, f"id,message\n1,{SECRET}\n2,b\n,c\n")
    result = surelocal("run", job, "--run-dir", tmp_path / "run")
    assert result.exit_code == 3, result.stderr
    [span] = collector.spans
    assert span.name == "run"
    assert attributes(span) == {
        "surelocal.job": "small", "gen_ai.request.model": "nobody/no-model",
        "surelocal.decided_by.template": 2, "surelocal.status.done": 2,
        "surelocal.status.error": 1, "surelocal.records": 3, "surelocal.spent_usd": 0.0,
    }  # fmt: skip
    assert SECRET.encode() not in collector.raw


@pytest.mark.process
@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, 0),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, 0),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_the_usual_variables_switch_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], on: bool
) -> None:
    for name, given in variables.items():
        monkeypatch.setenv(name, given)
    told: list[Notice] = []
    tracing = telemetry.begin(told.append)
    assert isinstance(tracing, Spans) == bool(on) and told == []
    tracing.close()


def test_another_protocol_and_missing_packages_are_a_sentence_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: Collector
) -> None:
    told: list[Notice] = []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert isinstance(telemetry.begin(told.append), Off)
    assert [str(one) for one in told] == [
        "OTEL_EXPORTER_OTLP_PROTOCOL is grpc, and surelocal speaks http/protobuf alone: no traces "
        "are sent"
    ]
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    for name in list(sys.modules):
        if name.startswith("opentelemetry"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as where it is not installed
    result = surelocal(
        "--log-format", "json", "run", write_job(tmp_path, "id,message\n1,a\n"), "--run-dir",
        tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    [warning] = [
        one for one in map(json.loads, result.stderr.splitlines()) if one["level"] == "warning"
    ]
    assert "no traces are sent: opentelemetry-sdk is not installed" in warning["message"]
    assert warning["event"] == told[0].event == "no_traces"
    assert "surelocal[otel]" in warning["message"] and collector.requests == []


@pytest.mark.process
def test_nobody_who_asks_for_none_loads_it(tmp_path: Path) -> None:
    import subprocess

    job = write_job(tmp_path, "id,message\n1,a\n")
    code = (
        "import sys; from runner.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print([n for n in sys.modules if n.startswith('opentelemetry')])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "run", str(job), "--run-dir", str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout == "[]\n", ran.stderr
