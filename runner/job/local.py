"""The job's ``local``: the model that runs here, its engine, and how it generates."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from runner.job.confidence import Part

_PRESET = {
    "type": "string",
    "description": "`NAME[/VARIANT][/MODE]` of `surelocal models`: fills in what `local` leaves "
    "out. The job's own keys win, and the run directory knows the values alone.",
}

MOST_MINUTES = 7 * 24 * 60


def _with_preset(schema: dict[str, Any]) -> None:
    """A job file may name a preset, and then need not name the model: `runner.job.presets` puts its
    values in before the job is checked."""
    schema["properties"] = {"preset": _PRESET, **schema["properties"]}
    schema["anyOf"] = [{"required": ["model"]}, {"required": ["preset"]}]
    del schema["required"]


class SamplingSpec(Part):
    """How to generate; further keys (`top_p`, `top_k`, …) go to the engine unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True)

    temperature: float = Field(default=0.0, ge=0.0)
    """0 takes the likeliest token each time; the confidence is then the answer's probability."""
    max_tokens: int = Field(default=256, ge=1)
    """The longest answer, in tokens, what the model thinks before it included."""
    seed: int | None = 0
    """What random draws begin from; null for other answers at each run."""


class Local(Part):
    """The local model and its engine."""

    model_config = ConfigDict(json_schema_extra=_with_preset)

    model: str
    """A hub id, a folder (relative to the job file), or a server's name for it."""
    engine: Literal["auto", "vllm", "transformers", "openai_server"] = "auto"
    """`auto` is a server where there is a `base_url`, else vLLM where it is installed, else
    transformers."""
    sampling: SamplingSpec = SamplingSpec()
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Go to the engine unchanged: vLLM's `EngineArgs`, transformers' `from_pretrained` (and its
    `batch_size`), the server's request (and `timeout_s`)."""
    chat_template_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model's chat template, such as `enable_thinking`."""
    reasoning_parser: str | None = None
    """The parser of vLLM that splits a thinking model's reasoning from its answer."""
    base_url: str | None = None
    """An OpenAI-compatible server's address, up to and with `/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the server's key, where it wants one."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads on a CPU; left out, one less than the cores. 1 makes answers independent of what else
    is in the batch, to the last bit; more is faster from a billion parameters up."""
    window: int | None = Field(default=None, ge=1)
    """Prompts in flight at once; left out, twice the engine's batch, and 64 with a server."""
    keep_loaded: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Minutes for which the engine stays loaded after the run, for another with the same model and
    engine settings that names this key too."""
    too_long: Literal["error", "escalate", "review"] = "error"
    """Where a record goes that is too long for the local model: it is an error, the closed model is
    asked (where it may leave the machine, else a person is), or a person."""
    server_wait_s: float = Field(default=300.0, ge=0, le=86_400)
    """Seconds for which a server that went away, restarts or is full is waited for."""
    gpu_usd_per_hour: Decimal | None = Field(default=None, ge=0)
    """What this machine costs, in US dollars an hour; for the report alone."""

    @field_validator("gpu_usd_per_hour", mode="before")
    @classmethod
    def exact(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value

    @model_validator(mode="after")
    def server_has_address(self) -> Self:
        if self.engine == "openai_server" and not self.base_url:
            raise ValueError("`engine: openai_server` needs `base_url`, the address up to /v1")
        if self.base_url and self.keep_loaded is not None:
            raise ValueError(
                "`keep_loaded` is for an engine of this machine's, and a `base_url` names a server "
                "that stays by itself; leave out one of the two"
            )
        return self
