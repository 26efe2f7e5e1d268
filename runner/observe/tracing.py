"""Traces by OpenTelemetry, where its usual variables ask for them; otherwise nothing is loaded.

No text of a record, a prompt or an answer is ever put into a span, nor an exception's words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from escalation.policy import Routed
from runner.errors import EngineError, MissingExtra, RecordError
from runner.pipeline.answer import UNOBSERVED, Observer
from runner.status.summary import Summary
from runner.types import Answer, Completion, Event, Sampling, Say, notice

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, Any]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
LOCAL = "surelocal"
"""The local model's ``gen_ai.provider.name``."""


class Tracing(Protocol):
    """What opens spans; each is the child of the one that is open around it."""

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Span | None]: ...

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span | None]:
        """A request's span, in the trace that its client's ``traceparent`` names."""
        ...

    def observer(self, model: str) -> Observer:
        """What opens a span around each step of a record's way; ``model``: the local one's name."""
        ...

    def close(self) -> None: ...


class Off:
    """No traces."""

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        return nullcontext()

    def observer(self, model: str) -> Observer:
        return UNOBSERVED

    def close(self) -> None:
        return None


class Spans:
    """Traces to wherever ``provider`` brings them; `close` waits until they are there."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("surelocal", version("surelocal"))
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[Span]:
        """``attributes`` have ``__`` for a dot."""
        named = {key.replace("__", "."): value for key, value in attributes.items()}
        with self._opened(name, attributes=named) as span:
            yield span

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(dict(headers))
        with self._opened(name, context=context, kind=SpanKind.SERVER) as span:
            yield span

    def _opened(self, name: str, **more: Any) -> AbstractContextManager[Span]:
        # An exception's words may hold a record's.
        return self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False, **more
        )

    def observer(self, model: str) -> Observer:
        return _Steps(self, model)

    def close(self) -> None:
        self._provider.shutdown()


class _Steps(Observer):
    """A span around each step, with what it came to."""

    def __init__(self, spans: Spans, model: str) -> None:
        self._spans = spans
        self._model = model

    def load(self) -> AbstractContextManager[object]:
        return self._spans.span("load", gen_ai__request__model=self._model)

    @contextmanager
    def route(self) -> Iterator[Callable[[Routed], None]]:
        with self._spans.span("route") as span:
            yield lambda routed: span.set_attributes(_routed(routed))

    @contextmanager
    def generate(self, sampling: Sampling) -> Iterator[Callable[[Completion], None]]:
        asked = {
            "gen_ai__operation__name": "chat",
            "gen_ai__provider__name": LOCAL,
            "gen_ai__request__model": self._model,
            "gen_ai__request__max_tokens": sampling.max_tokens,
            "gen_ai__request__temperature": sampling.temperature,
        }
        with self._spans.span("generate", **asked) as span:
            try:
                yield lambda completion: span.set_attributes(_generated(completion))
            except (RecordError, EngineError) as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    @contextmanager
    def check(self) -> Iterator[Callable[[Answer], None]]:
        with self._spans.span("check") as span:
            yield lambda answer: span.set_attributes({"surelocal.valid": answer.valid})

    def decide(self) -> AbstractContextManager[object]:
        return self._spans.span("decide")


def begin(say: Say) -> Tracing:
    """Starts tracing as the environment asks: `Off` unless it names an endpoint or ``otlp``. If
    tracing is unavailable, ``say`` receives the reason and the run continues without it."""
    if not _asked():
        return Off()
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), SPOKEN)
    if protocol != SPOKEN:
        only = f"surelocal speaks {SPOKEN} alone"
        problem = f"{PROTOCOLS[1]} is {protocol}, and {only}"
        say(notice(Event.NO_TRACES, f"{problem}: no traces are sent", problem=problem))
        return Off()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        problem = str(MissingExtra("opentelemetry-sdk", "otel"))
        say(notice(Event.NO_TRACES, f"no traces are sent: {problem}", problem=problem))
        return Off()
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "surelocal"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Spans(provider)


@contextmanager
def of_run(name: str, model: str, say: Say) -> Iterator[Callable[[Summary], None]]:
    """One span for a whole run, which the summary that is handed over gives its figures."""
    tracing = begin(say)
    try:
        with tracing.span("run", surelocal__job=name, gen_ai__request__model=model) as span:
            yield lambda summary: None if span is None else span.set_attributes(_summed(summary))
    finally:
        tracing.close()


def _summed(summary: Summary) -> Attributes:
    counts = {"decided_by": summary.decided_by, "status": summary.status}
    found = {
        f"surelocal.{kind}.{name}": count
        for kind, by in counts.items()
        for name, count in by.items()
    }
    spent = float(summary.spent_usd)
    return {**found, "surelocal.records": summary.records, "surelocal.spent_usd": spent}


def _asked() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get(EXPORTER, "")
    if exporter:
        return exporter == "otlp"
    return any(os.environ.get(name) for name in ENDPOINTS)


def _routed(routed: Routed) -> Attributes:
    rule = {} if routed.rule is None else {"surelocal.rule": routed.rule}
    return {"surelocal.route": str(routed.route), **rule}


def _generated(completion: Completion) -> Attributes:
    return {
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [completion.finish_reason],
        "gen_ai.usage.input_tokens": completion.usage.input_tokens,
        "gen_ai.usage.output_tokens": completion.usage.output_tokens,
    }
