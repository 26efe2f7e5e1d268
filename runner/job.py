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
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from runner.job_cluster import Cluster as Cluster
from runner.job_confidence import Confidence, Part
from runner.job_escalation import Escalation as Escalation
from runner.job_escalation import Price as Price
from runner.job_escalation import default_spend_file
from runner.job_records import BATCH, Output, Records
from runner.json_text import json_encoder
from runner.types import Constraint

# Of ``confidence``, what no answer and no threshold depends on.
_PACE = ("audit", "reference", "looks", "strata")
# And of ``local``.
_NO_PART_IN_ANSWERS = ("base_url", "window", "gpu_usd_per_hour")


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
    ``gpu_usd_per_hour``: what this machine costs, for the report alone.
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
    gpu_usd_per_hour: Decimal | None = Field(default=None, ge=0)

    @field_validator("gpu_usd_per_hour", mode="before")
    @classmethod
    def exact(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value

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


class Privacy(Part):
    """What the closed model must not see: the values of the ``redact`` fields, wherever they occur,
    whatever fits one of the ``patterns``, and at all, the records for which ``keep_local`` holds.
    """

    redact: list[str] = Field(default_factory=list)
    patterns: tuple[Literal["email", "phone", "iban", "card"], ...] = (
        "email", "phone", "iban", "card",
    )  # fmt: skip
    keep_local: str | None = None


class Job(Part):
    """A whole job. ``folder`` is where relative paths start: the job file's folder. ``prompt`` is
    None where the records are an OpenAI batch file's, which has its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    records: Records
    prompt: PromptTemplates | None = Field(default=None, validate_default=True)
    answer: AnswerSpec
    local: Local
    routes: list[RouteRule] = Field(default_factory=list)
    confidence: Confidence = Confidence()
    escalation: Escalation | None = None
    privacy: Privacy = Privacy()
    output: Output = Output()
    cluster: Cluster | None = None
    folder: Path = Field(default=Path(), exclude=True)

    @field_validator("answer", mode="before")
    @classmethod
    def text_alone(cls, value: object) -> object:
        return {"text": True} if value == "text" else value

    @field_validator("prompt")
    @classmethod
    def prompt_once(
        cls, prompt: PromptTemplates | None, known: ValidationInfo
    ) -> PromptTemplates | None:
        """The job's, or the batch file's own."""
        records = known.data.get("records")
        own = records is not None and records.format == BATCH
        if own and prompt is not None:
            raise ValueError(
                "the messages of an OpenAI batch file are its prompt: leave `prompt` out, or set "
                "`records.format: jsonl` and write one over `body` and `custom_id`"
            )
        if records is not None and not own and prompt is None:
            raise PydanticCustomError("missing", "Field required")
        return prompt

    @model_validator(mode="after")
    def table_has_database(self) -> Self:
        if self.output.table is not None and (self.output.url or self.records.url) is None:
            raise ValueError("`output.table` needs `output.url`: the records are in no database")
        return self

    def records_path(self) -> Path:
        """The records' file. Only where they are in one: `records.path` is not None."""
        assert self.records.path is not None
        return (self.folder / self.records.path).resolve()

    def records_place(self) -> str:
        """Where the records are, for a sentence."""
        if self.records.path is not None:
            return str(self.records_path())
        return "what records.query gives"

    def model_path(self) -> Path | None:
        """The model's folder, or ``None`` where ``local.model`` is a hub id or a server's name."""
        if self.local.engine == "openai_server":
            return None
        path = (self.folder / Path(self.local.model).expanduser()).resolve()
        looks_local = self.local.model.startswith((".", "/", "~")) or path.exists()
        return path if looks_local else None

    def spend_path(self) -> Path:
        """The file in which the cap per day is kept."""
        given = self.escalation.spend_file if self.escalation is not None else None
        return (self.folder / (given or default_spend_file()).expanduser()).resolve()

    def calibration_path(self) -> Path:
        return (self.folder / self.confidence.calibration).resolve()

    def identity(self) -> dict[str, str]:
        """What answers depend on: part → SHA-256 over its canonical JSON."""
        whole = self.model_dump(mode="json", by_alias=True)
        local = {k: v for k, v in whole["local"].items() if k not in _NO_PART_IN_ANSWERS}
        closed, confidence = whole["escalation"], whole["confidence"]
        parts = {
            "records.id": whole["records"]["id"],
            "prompt": whole["prompt"],
            # As text: a schema's order of properties is the order in which a model fills them.
            "answer": json.dumps(whole["answer"]),
            "local": local,
            "local.model files": _files_digest(self.model_path()),
            "routes": whole["routes"],
            "confidence": {k: v for k, v in confidence.items() if k not in _PACE},
            "looks": {k: v for k, v in confidence["looks"].items() if k != "take"},
            "strata": confidence["strata"],
            "calibration": self._calibration_digest(),
            "escalation.model": closed and [closed["provider"], closed["model"]],
            "privacy": whole["privacy"],
        }
        return {name: digest(part) for name, part in parts.items()}

    def _calibration_digest(self) -> str | None:
        path = self.calibration_path()
        used = self.confidence.certifies or self.confidence.policy == "budget"
        if not used or not path.is_file():
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()


_canonical = json_encoder(sort_keys=True)


def digest(value: Any) -> str:
    """SHA-256 over canonical JSON (sorted keys, no spaces): equal values, equal digests."""
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def mark(record_id: str) -> str:
    """A record's id, hashed: what a calibration may keep of it."""
    return digest(record_id)[:16]


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
