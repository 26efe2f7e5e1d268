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
    """One for each user of this machine."""
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
"""One of the table's; a table of Python's cannot be a `Literal`."""


class Price(Part):
    """US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    """A prompt's tokens."""
    output: Decimal = Field(ge=0)
    """An answer's tokens, what the model thinks before it included."""
    cache_write_5m: Decimal | None = Field(default=None, ge=0)
    """Tokens kept for five minutes; left out, twice the price of input."""
    cache_write_1h: Decimal | None = Field(default=None, ge=0)
    """Tokens kept for an hour; left out, twice the price of input."""
    cache_read: Decimal | None = Field(default=None, ge=0)
    """Tokens that were kept; left out, the price of input."""
    batch: Decimal = Field(default=Decimal(1), gt=0, le=1)
    """What a request in a provider's batch costs, as a share of these prices."""


class BatchLane(Part):
    """How requests go in a provider's batches."""

    max_requests: int = Field(default=10_000, ge=1, le=50_000)
    """A batch has at most so many."""
    poll_s: float = Field(default=60.0, gt=0)
    """Seconds between two questions whether a batch is back."""
    listed_within_s: float = Field(default=600.0, ge=0)
    """Seconds. A batch whose sending was cut short is looked for among the provider's; where it
    does not stand there so long after it was begun, it was never made. Results of an ended batch
    that are still missing so long after, and at 20 looks, are lost; a batch that cannot be asked
    about for so long is waited for no more."""
    expect_s: float = Field(default=3600.0, ge=0)
    """Seconds within which a batch is expected to be back; with a deadline."""
    live_s: float = Field(default=1800.0, ge=0)
    """Seconds before the deadline at which what is not back is cancelled and asked live."""


def _needs_only_what_is_unusual(schema: dict[str, Any]) -> None:
    """In a job file the usual model and key need not stand, and a duration is `10h`."""
    del schema["required"]
    schema["properties"]["deadline"]["anyOf"] = [{"type": "string"}, {"type": "null"}]


class Escalation(Part):
    """The closed model and what may be spent on it in this run directory. Left out, nothing is
    ever sent."""

    model_config = ConfigDict(json_schema_extra=_needs_only_what_is_unusual)

    provider: Provider = DEFAULT
    """`openai` is also, at a `base_url`, whoever else speaks OpenAI's API: Gemini, say. `local` is
    a larger open-weight model on a server of your own that does; it costs nothing."""
    model: str
    """The model's name at the provider; left out, the usual one of Claude's, OpenAI's or Gemini's
    API."""
    lane: Literal["live", "batch", "auto"] = "live"
    """`batch` sends in the provider's batches, at a lower price and back within a day; `auto` does
    as long as a batch can be back by the `deadline`, and asks live for what cannot."""
    deadline: datetime | timedelta | None = None
    """A time (without a zone, this machine's), or how long after the run's start: `90m`, `10h`,
    `1d`. With `lane: auto`."""
    batch: BatchLane = BatchLane()
    budget_usd: Decimal = Field(default=Decimal(0), ge=0)
    """The cap of this run directory, in US dollars; it is never passed."""
    daily_budget_usd: Decimal | None = Field(default=None, ge=0)
    """A cap, in US dollars, over all runs of a UTC day whose jobs have one and share the
    `spend_file`."""
    spend_file: Path | None = None
    """Where the day's spending is kept; left out, one file for each user of this machine."""
    max_usd_per_record: Decimal | None = Field(default=None, gt=0)
    """A record that could cost more, in US dollars, goes to a person instead."""
    guard: Switch = "on"
    """`off` sends what the local model leaves unsure even where more than half of its last answers
    were cut off, not valid or without a confidence; `on` holds it back, and says so."""
    base_url: str | None = None
    """The API's address up to its version, as in `http://big-box:8000/v1`; left out, the
    provider's own."""
    api_key_env: str | None
    """The environment variable that holds the key; left out, the provider's usual one. Without a
    key in it nothing is sent, and records wait; `local` needs none."""
    max_tokens: int = Field(default=512, ge=1)
    """The longest answer, in tokens, what the model thinks before it included."""
    effort: Literal["low", "medium", "high"] | None = None
    """How hard the model thinks; left out, `low` at OpenAI and Gemini, elsewhere what the
    API does."""
    concurrency: int = Field(default=16, ge=1, le=256)
    """Requests in flight at once."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """No more requests than so many; left out, what the provider's rate-limit headers say."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for one reply."""
    max_attempts: int = Field(default=6, ge=1)
    """How often one record's request is sent at most; then it waits for the next run, or, where it
    went in batches, goes to a person."""
    retry_for_s: float = Field(default=300.0, gt=0)
    """Seconds to go on trying while the provider is overloaded."""
    price: Price | None = None
    """For a model that the price list does not have, or where its prices have changed."""

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
        """Where its requests go."""
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
            raise ValueError(f"{at.name} has no batches; take `lane: live`")
        if self.lane != "live" and self.entry.batches is None:
            raise ValueError(f"`provider: {self.provider}` has no batches; take `lane: live`")
        if self.deadline is not None and self.lane != "auto":
            raise ValueError("`deadline` is for `lane: auto`, which chooses the lane by it")
        return self

    @field_validator("deadline", mode="before")
    @classmethod
    def hours(cls, value: object) -> object:
        """``10h`` and ``90m``; a time without a zone is this machine's."""
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
