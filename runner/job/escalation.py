"""The job's ``escalation``: which closed model, and what may be spent on it."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from runner.job import former_name
from runner.job.confidence import Part, Switch
from runner.job.providers import DEFAULT, PROVIDERS, Entry, endpoint_at

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def default_spend_file() -> Path:
    """The default spend file: one per user of this machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return former_name.spend_file(Path(state) / "surelocal" / "spend.sqlite")


def _named(provider: str) -> str:
    if provider not in PROVIDERS:
        *names, last = map(repr, PROVIDERS)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(names)} or {last}"})
    return provider


Provider = Annotated[
    str, AfterValidator(_named), Field(json_schema_extra={"enum": list[Any](PROVIDERS)})
]
"""A provider of the table; not a `Literal`, which cannot be made from a table."""


class Price(Part):
    """US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    """Tokens of the prompt."""
    output: Decimal = Field(ge=0)
    """Tokens of the answer, including the model's reasoning."""
    cache_write_5m: Decimal | None = Field(default=None, ge=0)
    """Tokens cached for five minutes. Default: twice the price of input."""
    cache_write_1h: Decimal | None = Field(default=None, ge=0)
    """Tokens cached for an hour. Default: twice the price of input."""
    cache_read: Decimal | None = Field(default=None, ge=0)
    """Tokens read from the cache. Default: the price of input."""
    batch: Decimal = Field(default=Decimal(1), gt=0, le=1)
    """The price of a request in a batch, as a share of these prices."""


class BatchLane(Part):
    """How requests are sent in a provider's batches."""

    max_requests: int = Field(default=10_000, ge=1, le=50_000)
    """The most requests in one batch."""
    poll_s: float = Field(default=60.0, gt=0)
    """Seconds between two checks whether a batch has ended."""
    listed_within_s: float = Field(default=600.0, ge=0)
    """Seconds. A batch whose submission was interrupted is searched for among the provider's; if it
    is not listed this long after the submission, it was never created. Results that are still
    missing this long after a batch ended, and after 20 checks, are lost. A batch whose status
    cannot be read for this long is given up."""
    expect_s: float = Field(default=3600.0, ge=0)
    """Seconds within which a batch is expected to end; with a deadline."""
    live_s: float = Field(default=1800.0, ge=0)
    """Seconds before the deadline at which unfinished batches are cancelled and their requests are
    sent live."""


def _needs_only_what_is_unusual(schema: dict[str, Any]) -> None:
    """In a job file, model and key have defaults, and a duration is written `10h`."""
    del schema["required"]
    schema["properties"]["deadline"]["anyOf"] = [{"type": "string"}, {"type": "null"}]


class Escalation(Part):
    """The closed model, and what may be spent on it in this run directory. Without this part,
    nothing is ever sent."""

    model_config = ConfigDict(json_schema_extra=_needs_only_what_is_unusual)

    provider: Provider = DEFAULT
    """`openai` with a `base_url` is any provider with OpenAI's API, such as Gemini. `local` is a
    larger open-weight model on your own server with that API; it costs nothing."""
    model: str
    """The model's name at the provider. Default: the usual model of Claude's, OpenAI's or Gemini's
    API."""
    lane: Literal["live", "batch", "auto"] = "live"
    """`batch` uses the provider's batches, which cost less and take up to a day; `auto` uses them
    while a batch can end by the `deadline`, and sends the rest live."""
    deadline: datetime | timedelta | None = None
    """A time (in this machine's zone if it has none) or a duration from the run's start: `90m`,
    `10h`, `1d`. With `lane: auto`."""
    batch: BatchLane = BatchLane()
    budget_usd: Decimal = Field(default=Decimal(0), ge=0)
    """The spending cap of this run directory, in US dollars; it is never exceeded."""
    daily_budget_usd: Decimal | None = Field(default=None, ge=0)
    """A spending cap per UTC day, in US dollars, over all runs that have one and share the
    `spend_file`."""
    spend_file: Path | None = None
    """The file of daily spending. Default: one file per user of this machine."""
    max_usd_per_record: Decimal | None = Field(default=None, gt=0)
    """A record that could cost more than this, in US dollars, goes to a person instead."""
    guard: Switch = "on"
    """`on` holds unsure records back, and reports it, while more than half of the local model's
    last answers are cut off, not valid or without a confidence; `off` sends them."""
    base_url: str | None = None
    """The API's address up to its version, as in `http://big-box:8000/v1`. Default: the
    provider's."""
    api_key_env: str | None
    """The environment variable that holds the key. Default: the provider's usual one. Without a
    key, nothing is sent and records wait; `local` needs none."""
    max_tokens: int = Field(default=512, ge=1)
    """The most tokens of an answer, including the model's reasoning."""
    effort: Literal["low", "medium", "high"] | None = None
    """The reasoning effort. Default: `low` at OpenAI and Gemini, elsewhere the API's default."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """The most requests in flight at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """The most requests per minute. Default: the limits in the provider's headers."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for a reply."""
    max_attempts: int = Field(default=6, ge=1)
    """The most times that a record's request is sent; then it waits for the next run or, if it was
    sent in batches, goes to a person."""
    retry_for_s: float = Field(default=300.0, gt=0)
    """Seconds to keep retrying while the provider is overloaded."""
    price: Price | None = None
    """Prices for a model that is not in the price list, or whose prices have changed."""

    @model_validator(mode="before")
    @classmethod
    def usual(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        provider = given.get("provider", DEFAULT)
        entry = PROVIDERS.get(provider) if isinstance(provider, str) else None
        return given if entry is None else entry.usual(given.get("base_url")) | given

    @property
    def entry(self) -> Entry:
        return PROVIDERS[self.provider]

    @property
    def address(self) -> str:
        """The address to which requests are sent."""
        return self.base_url or self.entry.endpoints[0].url

    @model_validator(mode="after")
    def reachable(self) -> Self:
        if self.entry.own_server:
            if self.base_url is None or endpoint_at(self.base_url) is not None:
                raise ValueError(
                    f"`provider: {self.provider}` needs `base_url`, the address of your own server"
                )
        elif self.api_key_env is None:
            raise ValueError("`api_key_env` names the environment variable that holds the key")
        return self

    @model_validator(mode="after")
    def batched(self) -> Self:
        at = endpoint_at(self.address)
        if self.lane != "live" and at is not None and not at.batches:
            raise ValueError(f"{at.name} has no batches; use `lane: live`")
        if self.lane != "live" and self.entry.batches is None:
            raise ValueError(f"`provider: {self.provider}` has no batches; use `lane: live`")
        if self.deadline is not None and self.lane != "auto":
            raise ValueError("`deadline` needs `lane: auto`, which chooses the lane by it")
        return self

    @field_validator("deadline", mode="before")
    @classmethod
    def hours(cls, value: object) -> object:
        """Reads durations such as ``10h`` and ``90m``."""
        if isinstance(value, int | float):
            raise ValueError("give a time such as 2026-11-23T08:00, or a duration such as 10h")
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: float(found[1])})
        return value

    @field_validator("deadline", mode="after")
    @classmethod
    def zoned(cls, value: datetime | timedelta | None) -> datetime | timedelta | None:
        return value.astimezone() if isinstance(value, datetime) and not value.tzinfo else value

    @field_validator("budget_usd", "daily_budget_usd", "max_usd_per_record", mode="before")
    @classmethod
    def exact(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value
