"""What a call costs: exactly from its usage, at worst before it is made, and as an estimate.

The prices stand in ``prices.yaml`` beside this file, dated; a model that is neither there nor
priced by the job is refused, never free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import yaml

from runner.errors import UsageError
from runner.job import Escalation
from runner.types import Usage

MILLION = Decimal(1_000_000)
DECIMALS = 6  # of a price per million tokens: more would not fit the ledger's pico-dollars
# Byte-level tokenizers make no token of less than a byte, so bytes bound tokens from above; this
# much on top for what the provider adds around a request (roles, the answer format's own prompt).
OVERHEAD_TOKENS = 500
BYTES_A_TOKEN = 4  # of English text, for estimates only
LARGEST_CACHE_MINIMUM = 4096  # for a model of which it is not known
LONGEST_RUN = timedelta(days=7)  # a run's price is fixed at its start, so it counts ahead this far


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. A prompt above ``long_above`` tokens costs ``long``;
    ``batch`` is the share of it all that the same request costs in a provider's batch, and
    ``most`` what the provider may multiply it all by, by where it serves the request."""

    input: Decimal
    output: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal
    long_above: int | None = None
    long: Price | None = None
    batch: Decimal = Decimal(1)
    most: Decimal = Decimal(1)

    def in_batch(self) -> Price:
        """The same, for requests that go into a batch."""
        return replace(self._scaled(self.batch), batch=Decimal(1))

    def _scaled(self, factor: Decimal) -> Price:
        return replace(
            self,
            input=self.input * factor,
            output=self.output * factor,
            cache_write_5m=self.cache_write_5m * factor,
            cache_write_1h=self.cache_write_1h * factor,
            cache_read=self.cache_read * factor,
            long=self.long and self.long._scaled(factor),
        )

    def cost(self, usage: Usage) -> Decimal:
        """What the provider bills for this usage, in US dollars."""
        written = usage.cache_write_5m + usage.cache_write_1h
        prompt = usage.input_tokens + written + usage.cache_read
        price = self._tier(prompt)
        return (
            usage.input_tokens * price.input
            + usage.output_tokens * price.output
            + usage.cache_write_5m * price.cache_write_5m
            + usage.cache_write_1h * price.cache_write_1h
            + usage.cache_read * price.cache_read
        ) / MILLION

    def worst_case(self, request_bytes: int, max_tokens: int) -> Decimal:
        """No reply to a request of this size can cost more, in US dollars, wherever it is served.

        Requests ask for the five-minute cache alone, so the one-hour price is none of theirs.
        """
        tokens = request_bytes + OVERHEAD_TOKENS
        # It may have fewer tokens than bytes, and fall into the lower tier.
        tiers = {self, self._tier(tokens)}
        prompt = max(max(p.input, p.cache_write_5m, p.cache_read) for p in tiers)
        usual = (tokens * prompt + max_tokens * max(p.output for p in tiers)) / MILLION
        return usual * self.most

    def estimate(self, request_bytes: int, output_tokens: int) -> Decimal:
        """What such a request costs, roughly: nothing cached, `BYTES_A_TOKEN`."""
        tokens = -(-request_bytes // BYTES_A_TOKEN)
        price = self._tier(tokens)
        return (tokens * price.input + output_tokens * price.output) / MILLION

    def _tier(self, prompt_tokens: int) -> Price:
        if self.long is not None and self.long_above is not None:
            return self.long if prompt_tokens > self.long_above else self
        return self


@cache
def _table() -> dict[str, Any]:
    text = files("escalation.providers").joinpath("prices.yaml").read_text(encoding="utf-8")
    # As text, so that 0.10 is exactly ten cents.
    table: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
    return table


def price_date() -> str:
    return str(_table()["dated"])


def cache_minimum(escalation: Escalation) -> int:
    """The fewest tokens of a shared prefix that the provider keeps; shorter ones never are."""
    return int(_table()["cache_from"].get(escalation.model, LARGEST_CACHE_MINIMUM))


def times(provider: str, served: Mapping[str, str]) -> Decimal | None:
    """What the usual price is to be multiplied by for a reply that was served so; None where that
    may be more than is known."""
    factor = Decimal(1)
    for name, value in served.items():
        known = _table()["served"].get(provider, {}).get(name, {}).get(value)
        if known is None:
            return None
        factor *= Decimal(known)
    return factor


def _most_times(provider: str) -> Decimal:
    """The largest that `times` can say."""
    most = Decimal(1)
    for known in _table()["served"].get(provider, {}).values():
        most *= max(Decimal(1), *map(Decimal, known.values()))
    return most


def _region(escalation: Escalation) -> Decimal:
    """What the listed prices are multiplied by at a regional address of the provider's; its
    replies do not tell."""
    for end, factor in _table()["regional"].get(escalation.provider, {}).items():
        host = (urlsplit(escalation.base_url or "").hostname or "").rstrip(".")
        if host.endswith(f".{end}"):
            return Decimal(factor)
    return Decimal(1)


def price_of(escalation: Escalation, today: date | None = None) -> Price:
    """The job's own price, or the table's; nothing where the model runs on a server of one's own.

    Raises:
        UsageError: the model is in neither.
    """
    if escalation.price is not None:
        given = {k: v for k, v in escalation.price.model_dump().items() if v is not None}
        if any(round(price, DECIMALS) != price for price in given.values()):
            raise UsageError(f"`escalation.price` takes prices of up to {DECIMALS} decimals")
        own = _price(given, given.pop("batch"))
        return replace(own, most=_most_times(escalation.provider))
    if escalation.entry.own_server:
        return _price({"input": 0, "output": 0})
    sections = [endpoint.prices for endpoint in escalation.entry.endpoints]
    models = {model: (row, name) for name in sections for model, row in _table()[name].items()}
    if escalation.model not in models:
        raise UsageError(
            f"no price is known for {escalation.model}; known are {', '.join(models)}; give "
            "`escalation.price: {input: …, output: …}` in US dollars per million tokens"
        )
    row, section = models[escalation.model]
    if "later" in row:
        until = date.fromisoformat(row["later"]["from"])
        if (today or datetime.now(UTC).date()) + LONGEST_RUN >= until:
            row = row["later"]
    listed = _price(row, Decimal(_table()["batch"][section]))._scaled(_region(escalation))
    return replace(listed, most=_most_times(escalation.provider))


def _price(row: dict[str, Any], batch: Decimal = Decimal(1)) -> Price:
    base = Decimal(row["input"])
    price = Price(
        input=base,
        output=Decimal(row["output"]),
        # Unpriced caching is charged at the dearest known multiple of the input price.
        cache_write_5m=Decimal(row.get("cache_write_5m", base * 2)),
        cache_write_1h=Decimal(row.get("cache_write_1h", base * 2)),
        cache_read=Decimal(row.get("cache_read", base)),
        batch=batch,
    )
    if "long" in row:
        long = _price(row["long"], batch)
        return replace(price, long_above=int(row["long"]["above"]), long=long)
    return price
