"""The job: what to run, as typed and checked values. `runner.job_file` reads it from YAML.

Every model forbids unknown keys and is frozen. `Job.identity` is what an answer depends on: two
jobs with the same identity give the same answers, and a run directory belongs to one identity.
Budgets, lanes and paces are left out of it on purpose, so that a cap can be raised on resume.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from runner.types import Constraint

DEFAULT_THRESHOLD = 0.9

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Records(Part):
    """Where the records are. ``path`` is relative to the job file."""

    path: Path
    id: str = "id"
    format: Literal["auto", "csv", "jsonl", "parquet"] = "auto"
    delimiter: str = Field(default=",", min_length=1, max_length=1)


class PromptTemplates(Part):
    """Jinja2 templates over the record's fields; ``record['First name']`` names any column."""

    system: str | None = None
    user: str


class AnswerSpec(Part):
    """Exactly one of ``schema`` (JSON Schema of an object), ``labels``, ``text: true``."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    labels: list[str] | None = None
    text: Literal[True] | None = None

    @model_validator(mode="after")
    def exactly_one(self) -> Self:
        given = [self.json_schema is not None, self.labels is not None, self.text is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of `schema`, `labels` and `text: true`")
        return self

    @field_validator("labels")
    @classmethod
    def labels_differ(cls, labels: list[str] | None) -> list[str] | None:
        if labels is None:
            return None
        if len(labels) < 2 or len(set(labels)) != len(labels) or not all(labels):
            raise ValueError("needs at least two labels, none empty and none given twice")
        return labels

    @field_validator("json_schema")
    @classmethod
    def schema_is_one(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is None:
            return None
        try:
            validator_for(schema).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"is not a JSON Schema: {error.message}") from None
        if schema.get("type") != "object":
            raise ValueError("must describe an object: `type: object` with `properties`")
        return schema

    def constraint(self) -> Constraint:
        return Constraint(
            schema=self.json_schema, labels=tuple(self.labels) if self.labels else None
        )


class SamplingSpec(Part):
    """``temperature`` and ``max_tokens`` for every engine; other keys pass through to it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    temperature: float = Field(default=0.0, ge=0.0)
    max_tokens: int = Field(default=256, ge=1)
    seed: int | None = 0


class Local(Part):
    """The local model and its engine.

    ``engine_args`` go to the engine unchanged (vLLM's ``EngineArgs``, transformers'
    ``from_pretrained``). ``cpu_threads``: 1 makes answers independent of what else is in the
    batch, to the last bit; more is faster for models of a billion parameters and up.
    """

    model: str
    engine: Literal["auto", "vllm", "transformers", "openai_server"] = "auto"
    sampling: SamplingSpec = SamplingSpec()
    engine_args: dict[str, Any] = Field(default_factory=dict)
    chat_template_args: dict[str, Any] = Field(default_factory=dict)
    reasoning_parser: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    cpu_threads: int | None = Field(default=None, ge=1)
    window: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def server_has_address(self) -> Self:
        if self.engine == "openai_server" and not self.base_url:
            raise ValueError("`engine: openai_server` needs `base_url`, the address up to /v1")
        return self


def _answer_text(value: object) -> object:
    return value if value is None or isinstance(value, (str, dict)) else json.dumps(value)


class RouteRule(Part):
    """The first rule whose ``when`` (a Jinja2 expression over the record) holds decides."""

    when: str
    to: Literal["template", "local", "closed", "review"]
    answer: Annotated[str | dict[str, Any] | None, BeforeValidator(_answer_text)] = None
    reason: str | None = None
    keep_local: bool = False

    @model_validator(mode="after")
    def template_has_answer(self) -> Self:
        if (self.to == "template") != (self.answer is not None):
            raise ValueError("`answer` belongs to `to: template`, and a template rule needs one")
        if self.to == "closed" and self.keep_local:
            raise ValueError("`to: closed` and `keep_local` contradict each other")
        return self


class Confidence(Part):
    """Accept a local answer whose confidence reaches ``threshold``; ``below`` says what happens
    to the others. ``target_error`` instead: the threshold at which, with probability 1 − ``delta``,
    at most that share of the accepted answers is wrong, from the labels in ``calibration``."""

    threshold: Probability | None = None
    target_error: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    calibration: Path = Path("calibration.json")
    below: Literal["escalate", "review"] = "escalate"

    @model_validator(mode="before")
    @classmethod
    def usual(cls, given: object) -> object:
        if isinstance(given, dict) and not {"threshold", "target_error"} & given.keys():
            return {**given, "threshold": DEFAULT_THRESHOLD}
        return given

    @model_validator(mode="after")
    def certified_or_given(self) -> Self:
        if self.target_error is not None and self.threshold is not None:
            raise ValueError("give `threshold` or `target_error`, not both")
        return self


class Price(Part):
    """US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cache_write_5m: Decimal | None = Field(default=None, ge=0)
    cache_write_1h: Decimal | None = Field(default=None, ge=0)
    cache_read: Decimal | None = Field(default=None, ge=0)


class Escalation(Part):
    """The closed model and what may be spent on it in this run directory."""

    provider: Literal["anthropic"] = "anthropic"
    model: str = "claude-sonnet-5-5"
    lane: Literal["live"] = "live"
    budget_usd: Decimal = Field(default=Decimal(0), ge=0)
    base_url: str | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    max_tokens: int = Field(default=512, ge=1)
    effort: Literal["low", "medium", "high"] | None = None
    concurrency: int = Field(default=16, ge=1, le=256)
    timeout_s: float = Field(default=120.0, gt=0)
    max_attempts: int = Field(default=6, ge=1)
    retry_for_s: float = Field(default=300.0, gt=0)
    price: Price | None = None

    @field_validator("budget_usd", mode="before")
    @classmethod
    def exact(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value


class Privacy(Part):
    redact: list[str] = Field(default_factory=list)
    keep_local: str | None = None


class Output(Part):
    """``path`` is relative to the run directory; its ending says the format unless given."""

    path: Path | None = None
    format: Literal["auto", "jsonl", "csv", "parquet"] = "auto"


class Job(Part):
    """A whole job. ``folder`` is where relative paths start: the job file's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    records: Records
    prompt: PromptTemplates
    answer: AnswerSpec
    local: Local
    routes: list[RouteRule] = Field(default_factory=list)
    confidence: Confidence = Confidence()
    escalation: Escalation | None = None
    privacy: Privacy = Privacy()
    output: Output = Output()
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("answer", mode="before")
    @classmethod
    def text_alone(cls, value: object) -> object:
        return {"text": True} if value == "text" else value

    def records_path(self) -> Path:
        return (self.folder / self.records.path).resolve()

    def model_path(self) -> Path | None:
        """The model's folder, or ``None`` where ``local.model`` is a hub id or a server's name."""
        if self.local.engine == "openai_server":
            return None
        path = (self.folder / Path(self.local.model).expanduser()).resolve()
        looks_local = self.local.model.startswith((".", "/", "~")) or path.exists()
        return path if looks_local else None

    def calibration_path(self) -> Path:
        return (self.folder / self.confidence.calibration).resolve()

    def identity(self) -> dict[str, str]:
        """What answers depend on: part → SHA-256 over its canonical JSON."""
        whole = self.model_dump(mode="json", by_alias=True)
        local = {k: v for k, v in whole["local"].items() if k not in ("base_url", "window")}
        closed = whole["escalation"]
        parts = {
            "records.id": whole["records"]["id"],
            "prompt": whole["prompt"],
            # As text: a schema's order of properties is the order in which a model fills them.
            "answer": json.dumps(whole["answer"]),
            "local": local,
            "local.model files": _files_digest(self.model_path()),
            "routes": whole["routes"],
            "confidence": whole["confidence"],
            "calibration": self._calibration_digest(),
            "escalation.model": closed and [closed["provider"], closed["model"]],
            "privacy": whole["privacy"],
        }
        return {name: digest(part) for name, part in parts.items()}

    def _calibration_digest(self) -> str | None:
        path = self.calibration_path()
        if self.confidence.target_error is None or not path.is_file():
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(value: Any) -> str:
    """SHA-256 over canonical JSON (sorted keys, no spaces): equal values, equal digests."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _files_digest(folder: Path | None) -> list[list[str]]:
    """Each file's name and a hash of its size, first and last MiB: weights of many gigabytes are
    not read whole at every start."""
    if folder is None or not folder.is_dir():
        return []
    listing = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        seen = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            seen.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            seen.update(file.read())
        listing.append([path.name, seen.hexdigest()])
    return listing
