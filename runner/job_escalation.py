"""The job's ``escalation``: which closed model, and what may be spent on it."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from runner.job_confidence import Part

_HOSTS = {
    "api.openai.com": "openai",
    "generativelanguage.googleapis.com": "gemini",
    "api.anthropic.com": "anthropic",
}
# What need not be said. Elsewhere the key must be named: OpenAI's is for OpenAI alone.
_USUAL: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "claude-sonnet-5-5", "api_key_env": "ANTHROPIC_API_KEY"},
    "openai": {"model": "gpt-6.1-sol", "api_key_env": "OPENAI_API_KEY"},
    "gemini": {"model": "gemini-3.8-flash", "api_key_env": "GEMINI_API_KEY"},
    "local": {"api_key_env": None},
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def endpoint_of(base_url: object) -> str:
    """Who answers at the ``base_url`` of an API like OpenAI's (at none, OpenAI): ``openai``,
    ``gemini``, ``anthropic`` or ``other``."""
    if base_url is None:
        return "openai"
    name = urlsplit(base_url).hostname if isinstance(base_url, str) else None
    host = f".{name or ''}".rstrip(".")  # written with a dot at its end it is the same host
    return next((whose for end, whose in _HOSTS.items() if host.endswith(f".{end}")), "other")


def default_spend_file() -> Path:
    """One for each user of this machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "localfirst" / "spend.sqlite"


class Price(Part):
    """US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cache_write_5m: Decimal | None = Field(default=None, ge=0)
    cache_write_1h: Decimal | None = Field(default=None, ge=0)
    cache_read: Decimal | None = Field(default=None, ge=0)
    batch: Decimal = Field(default=Decimal(1), gt=0, le=1)
    """What a request in a provider's batch costs, as a share of these prices."""


class BatchLane(Part):
    """How requests go in a provider's batches.

    A batch has at most ``max_requests``. It is asked about every ``poll_s`` seconds. One whose
    sending was cut short is looked for among the provider's batches; where it does not stand there
    ``listed_within_s`` seconds after it was begun, it was never made.

    With a deadline, a batch is expected to be back within ``expect_s``, and ``live_s`` before the
    deadline what is not back is cancelled and asked live.
    """

    max_requests: int = Field(default=10_000, ge=1, le=50_000)
    poll_s: float = Field(default=60.0, gt=0)
    listed_within_s: float = Field(default=600.0, ge=0)
    expect_s: float = Field(default=3600.0, ge=0)
    live_s: float = Field(default=1800.0, ge=0)


class Escalation(Part):
    """The closed model and what may be spent on it in this run directory.

    ``provider: openai`` is also, at a ``base_url``, whoever else speaks OpenAI's API: Gemini, say.
    ``local`` is a larger open-weight model on a server of one's own that does; it costs nothing,
    and needs a key only where ``api_key_env`` names one. ``max_tokens`` includes what a model
    thinks before it answers.

    ``daily_budget_usd`` is over all runs of a UTC day whose jobs have such a cap and share the
    ``spend_file`` (unless given, one for each user of this machine). A record that could cost more
    than ``max_usd_per_record`` goes to a person instead.

    ``lane: batch`` sends in the provider's batches, at a lower price and back within a day;
    ``auto`` does as long as a batch can be back by the ``deadline`` (a time, or as in ``10h`` how
    long after the run's start), and asks live for what cannot.
    """

    provider: Literal["anthropic", "openai", "local"] = "anthropic"
    model: str
    lane: Literal["live", "batch", "auto"] = "live"
    deadline: datetime | timedelta | None = None
    batch: BatchLane = BatchLane()
    budget_usd: Decimal = Field(default=Decimal(0), ge=0)
    daily_budget_usd: Decimal | None = Field(default=None, ge=0)
    spend_file: Path | None = None
    max_usd_per_record: Decimal | None = Field(default=None, gt=0)
    base_url: str | None = None
    api_key_env: str | None
    max_tokens: int = Field(default=512, ge=1)
    effort: Literal["low", "medium", "high"] | None = None
    concurrency: int = Field(default=16, ge=1, le=256)
    requests_per_minute: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=120.0, gt=0)
    max_attempts: int = Field(default=6, ge=1)
    retry_for_s: float = Field(default=300.0, gt=0)
    price: Price | None = None

    @model_validator(mode="before")
    @classmethod
    def usual(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        provider = given.get("provider", "anthropic")
        whose = endpoint_of(given.get("base_url")) if provider == "openai" else str(provider)
        return _USUAL.get(whose, {}) | given

    @model_validator(mode="after")
    def reachable(self) -> Self:
        if self.provider != "local" and self.api_key_env is None:
            raise ValueError("`api_key_env` names the environment variable that holds the key")
        own = self.base_url is not None and endpoint_of(self.base_url) == "other"
        if self.provider == "local" and not own:
            raise ValueError("`provider: local` needs `base_url`, the address of your own server")
        return self

    @model_validator(mode="after")
    def batched(self) -> Self:
        if self.lane != "live" and endpoint_of(self.base_url) == "gemini":
            raise ValueError("`lane: batch` and `auto` are for Claude's API and OpenAI's")
        if self.lane != "live" and self.provider == "local":
            raise ValueError("`provider: local` has no batches; take `lane: live`")
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
