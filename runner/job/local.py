"""The job's ``local``: the local model, its engine, and how it generates."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from runner.job.confidence import Part

_PRESET = {
    "type": "string",
    "description": "`NAME[/VARIANT][/MODE]` of `surelocal models`: fills in keys that `local` "
    "leaves out. The job's keys take precedence; the run directory stores only the values.",
}

MOST_MINUTES = 7 * 24 * 60


def _with_preset(schema: dict[str, Any]) -> None:
    """A job file may name a preset instead of a model: `runner.job.presets` fills in its values
    before the job is validated."""
    schema["properties"] = {"preset": _PRESET, **schema["properties"]}
    schema["anyOf"] = [{"required": ["model"]}, {"required": ["preset"]}]
    del schema["required"]


class SamplingSpec(Part):
    """How to generate; further keys (`top_p`, `top_k`, …) are passed to the engine unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True)

    temperature: float = Field(default=0.0, ge=0.0)
    """0 always takes the most probable token; the confidence is then the answer's probability."""
    max_tokens: int = Field(default=256, ge=1)
    """The most tokens of an answer, including the model's reasoning."""
    seed: int | None = 0
    """The random seed; null for different answers at each run."""


class Local(Part):
    """The local model and its engine."""

    model_config = ConfigDict(json_schema_extra=_with_preset)

    model: str
    """A hub id, a folder (relative to the job file), or the model's name at a server."""
    engine: Literal["auto", "vllm", "transformers", "openai_server"] = "auto"
    """`auto` is a server if there is a `base_url`, otherwise vLLM if it is installed, otherwise
    transformers."""
    sampling: SamplingSpec = SamplingSpec()
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to the engine unchanged: to vLLM's `EngineArgs`, to transformers' `from_pretrained`
    (plus `batch_size`), or in requests to the server (plus `timeout_s`)."""
    chat_template_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the model's chat template, such as `enable_thinking`."""
    reasoning_parser: str | None = None
    """The vLLM parser that separates a thinking model's reasoning from its answer."""
    base_url: str | None = None
    """The address of an OpenAI-compatible server, up to and including `/v1`."""
    api_key_env: str | None = None
    """The environment variable that holds the server's key, if it needs one."""
    cpu_threads: int | None = Field(default=None, ge=1)
    """Threads on a CPU. Default: one less than the cores. With 1, answers do not depend on the rest
    of the batch, to the last bit; more are faster from a billion parameters on."""
    window: int | None = Field(default=None, ge=1)
    """Prompts in flight at once. Default: twice the engine's batch, or 64 with a server."""
    keep_loaded: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Minutes for which the engine stays loaded after the run, for further runs with the same
    model, the same engine settings and this key."""
    too_long: Literal["error", "escalate", "review"] = "error"
    """What happens to a record that is too long for the local model: it is an error, it goes to the
    closed model (or to a person, if it may not leave the machine), or it goes to a person."""
    server_wait_s: float = Field(default=300.0, ge=0, le=86_400)
    """Seconds to wait for a server that is unreachable, restarting or overloaded."""
    gpu_usd_per_hour: Decimal | None = Field(default=None, ge=0)
    """The cost of this machine in US dollars per hour; used only in the report."""

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
                "`keep_loaded` is for an engine on this machine, but `base_url` names a server, "
                "which stays loaded anyway; leave out one of the two"
            )
        return self
