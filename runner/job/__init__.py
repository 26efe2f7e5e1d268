"""The job: what to run, as typed and validated values. `runner.job.file` reads it from YAML.

Every model is frozen and forbids unknown keys. `Job.identity` covers everything that answers depend
on: two jobs with the same identity give the same answers, and a run directory belongs to one
identity. It excludes budgets, lanes and paces, so that a cap can be raised on resume.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from runner.formats.json_text import json_encoder
from runner.formats.urls import showable
from runner.job.answer import AnswerSpec as AnswerSpec
from runner.job.answer import PromptTemplates as PromptTemplates
from runner.job.cluster import Cluster as Cluster
from runner.job.confidence import Confidence, Part
from runner.job.escalation import Escalation as Escalation
from runner.job.escalation import Price as Price
from runner.job.escalation import default_spend_file
from runner.job.local import Local as Local
from runner.job.local import SamplingSpec as SamplingSpec
from runner.job.records import BATCH, Output, Records
from runner.job.routes import Privacy as Privacy
from runner.job.routes import RouteRule as RouteRule

# The keys of ``confidence`` that affect neither answers nor thresholds.
_PACE = ("audit", "reference", "looks", "strata")
# The keys of ``local`` that do not affect answers.
_NO_PART_IN_ANSWERS = (
    "base_url", "window", "gpu_usd_per_hour", "keep_loaded", "server_wait_s", "too_long",
)  # fmt: skip


def _as_a_file(schema: dict[str, Any]) -> None:
    """Adapts the JSON Schema to job files, which are normalised before validation."""
    del schema["properties"]["folder"]
    # A served job's records are requests; a batch file contains its prompt and answer.
    schema["required"] = ["name", "local"]
    schema["properties"]["answer"] = {"anyOf": [schema["properties"]["answer"], {"const": "text"}]}


class Job(Part):
    """A whole job."""

    model_config = ConfigDict(json_schema_extra=_as_a_file)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the job; its run directory is `runs/NAME` unless `--run-dir` says otherwise."""
    records: Records
    prompt: PromptTemplates | None = Field(default=None, validate_default=True)
    answer: AnswerSpec
    local: Local
    routes: list[RouteRule] = Field(default_factory=list)
    """Rules; a record that matches none goes to the local model."""
    confidence: Confidence = Confidence()
    escalation: Escalation | None = None
    privacy: Privacy = Privacy()
    output: Output = Output()
    cluster: Cluster | None = None
    folder: Path = Field(default=Path(), exclude=True)
    """The job file's folder, to which paths are relative. Not a key of the file."""

    @field_validator("answer", mode="before")
    @classmethod
    def text_alone(cls, value: object) -> object:
        return {"text": True} if value == "text" else value

    @field_validator("prompt")
    @classmethod
    def prompt_once(
        cls, prompt: PromptTemplates | None, known: ValidationInfo
    ) -> PromptTemplates | None:
        """The prompt is either in the job or in the batch file."""
        records = known.data.get("records")
        own = records is not None and records.format == BATCH
        if own and prompt is not None:
            raise ValueError(
                "the messages of an OpenAI batch file are its prompt: leave `prompt` out, or set "
                "`records.format: jsonl` and use `body` and `custom_id` in the prompt"
            )
        if records is not None and not own and prompt is None:
            raise PydanticCustomError("missing", "Field required")
        return prompt

    @field_validator("cluster")
    @classmethod
    def nothing_kept(cls, cluster: Cluster | None, known: ValidationInfo) -> Cluster | None:
        local = known.data.get("local")
        if cluster is not None and local is not None and local.keep_loaded is not None:
            raise ValueError(
                "its engines end with the run, but `local.keep_loaded` would keep one; leave out "
                "one of the two"
            )
        return cluster

    @model_validator(mode="after")
    def table_has_database(self) -> Self:
        if self.output.table is not None and (self.output.url or self.records.url) is None:
            raise ValueError("`output.table` needs `output.url`: the records are not in a database")
        return self

    def key_names(self) -> list[str]:
        """The environment variables that hold the job's API keys."""
        named = (self.local.api_key_env, self.escalation and self.escalation.api_key_env)
        return [name for name in named if name]

    def records_path(self) -> Path:
        """The records' file. Requires that `records.path` is not None."""
        assert self.records.path is not None
        return (self.folder / self.records.path).resolve()

    def records_place(self) -> str:
        """The source of the records, for messages."""
        if self.records.path is not None:
            return str(self.records_path())
        return "what records.query gives"

    def model_path(self) -> Path | None:
        """The model's folder, or ``None`` if ``local.model`` is a hub id or a server's name."""
        if self.local.engine == "openai_server":
            return None
        path = (self.folder / Path(self.local.model).expanduser()).resolve()
        looks_local = self.local.model.startswith((".", "/", "~")) or path.exists()
        return path if looks_local else None

    def spend_path(self) -> Path:
        """The file of daily spending."""
        given = self.escalation.spend_file if self.escalation is not None else None
        return (self.folder / (given or default_spend_file()).expanduser()).resolve()

    def calibration_path(self) -> Path:
        return (self.folder / self.confidence.calibration).resolve()

    def written(self) -> dict[str, Any]:
        """The job in the form that may be stored: without the logins in its addresses."""
        whole = self.model_dump(mode="json", by_alias=True) | {"folder": str(self.folder)}
        for part in (whole["local"], whole["escalation"] or {}):
            if part.get("base_url") is not None:
                part["base_url"] = showable(part["base_url"])
        return whole

    def identity(self) -> dict[str, str]:
        """The parts that answers depend on: part → SHA-256 of its canonical JSON."""
        whole = self.model_dump(mode="json", by_alias=True)
        local = {k: v for k, v in whole["local"].items() if k not in _NO_PART_IN_ANSWERS}
        closed, confidence = whole["escalation"], whole["confidence"]
        parts = {
            "records.id": whole["records"]["id"],
            "prompt": whole["prompt"],
            # As text, since a model fills properties in the schema's order.
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
    """SHA-256 of canonical JSON (sorted keys, no spaces): equal values have equal digests."""
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def id_digest(record_id: str) -> str:
    """The hash of a record\'s id that a calibration stores."""
    return digest(record_id)[:16]


def _files_digest(folder: Path | None) -> list[list[str]]:
    """Each file's name, and a hash of its size and its first and last MiB; weights of many
    gigabytes are not read in full at every start."""
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
