"""What the whole would cost: everything by the closed model, or only what is escalated.

A record's cost is the estimate that a run makes of it (`runner.pipeline.closed_cost.ClosedCost`):
bytes / 4 tokens, nothing cached. Beside it stands the same with what all requests share read from
the provider's cache, where that is long enough to be kept. Intervals are over the draw of the
pilot: how far those bytes are from the provider's tokens nobody knows before a bill.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal

from escalation.providers.prices import BYTES_A_TOKEN, cache_minimum
from escalation.providers.request_bytes import body_bytes
from escalation.send.closed_side import ClosedSide
from runner.errors import RecordError
from runner.pipeline.closed_cost import AROUND_BYTES
from runner.quote.intervals import Range, sum_over
from runner.quote.pilot import Seen
from runner.types import Record, Usage

# Of the requests in a batch, which share finds the cache: "best effort" (Anthropic's documents).
BATCH_HITS = (0.98, 0.64, 0.30)


@dataclass(frozen=True, slots=True)
class Caching:
    """``tokens`` are the same in every request. One that reads them from the cache costs
    ``saved_usd`` less than one that sends them afresh, and one that writes them ``written_usd``
    more. Live, up to ``at_once`` are under way before the first has written them."""

    tokens: int
    saved_usd: Decimal
    written_usd: Decimal
    at_once: int

    def writers(self, requests: float, *, batched: bool) -> tuple[float, float, float]:
        """How many of so many requests write instead of reading: at best, about, at worst."""
        if batched:
            return tuple(requests * (1 - hits) for hits in BATCH_HITS)  # type: ignore[return-value]
        most = min(requests, float(self.at_once))
        return min(requests, 1.0), (min(requests, 1.0) + most) / 2, most


@dataclass(frozen=True, slots=True)
class Way:
    """One way of doing the whole. ``cached`` is None where nothing would be."""

    name: str
    plain: Range
    cached: Range | None


def caching(closed: ClosedSide | None, records: Iterable[Record]) -> Caching | None:
    """None where the requests share too little, or nothing that may be kept."""
    if closed is None:
        return None
    tokens = _shared_tokens(closed, records)
    price = closed.price
    sent, read, written = (
        price.cost(usage)
        for usage in (
            Usage(input_tokens=tokens), Usage(cache_read=tokens), Usage(cache_write_5m=tokens)
        )
    )  # fmt: skip
    if tokens < cache_minimum(closed.settings) or read >= sent:
        return None
    return Caching(tokens, sent - read, written - sent, closed.settings.concurrency)


def _shared_tokens(closed: ClosedSide, records: Iterable[Record]) -> int:
    """Of the answer's format and a system message that is the same for every record."""
    for record in records:
        if record.problem is not None:
            continue
        try:
            prompt = closed.renderer.render(record)
        except RecordError:
            continue
        shared = [m.content.encode("utf-8", "replace") for m in prompt.messages if m.cacheable]
        if not shared:
            return 0
        size = len(body_bytes(asdict(prompt.constraint))) + AROUND_BYTES + sum(map(len, shared))
        return size // BYTES_A_TOKEN
    return 0


def ways(
    seen: Sequence[Seen], size: int, closed: ClosedSide | None, cache: Caching | None
) -> list[Way]:
    """All closed and hybrid, live and, where the provider has cheaper batches, in them; none
    without a closed model, or with one that costs nothing."""
    if closed is None or not any(one.usd for one in seen):
        return []
    every, escalated = [one.usd for one in seen], [one.usd for one in seen if one.escalated]
    found, share = [], float(closed.price.batch)
    for name, amounts in (("All closed", every), ("Hybrid", escalated)):
        live = way(f"{name}, live", amounts, every, size, cache)
        found.append(live)
        if share < 1:
            batch = way(f"{name}, batch", amounts, every, size, cache, batched=True)
            cached = batch.cached.times(share) if batch.cached is not None else None
            found.append(Way(batch.name, batch.plain.times(share), cached))
    return found


def way(
    name: str,
    amounts: Sequence[Decimal],
    every: Sequence[Decimal],
    size: int,
    cache: Caching | None = None,
    *,
    batched: bool = False,
) -> Way:
    """The sum over the batch of what the sampled records cost.

    Args:
        amounts: of those that would be sent.
        every: of all sampled records; their number is the sample's.
        size: records of the batch.
    """
    drawn, sent = len(every), [float(usd) for usd in amounts if usd]
    usual = [float(usd) for usd in every if usd]
    plain = sum_over(size, drawn, sent, usual)
    if cache is None:
        return Way(name, plain, None)
    saved = float(cache.saved_usd)
    less, usual = ([max(0.0, usd - saved) for usd in group] for group in (sent, usual))
    best, about, worst = cache.writers(size * len(sent) / drawn, batched=batched)
    each = saved + float(cache.written_usd)
    cached = sum_over(size, drawn, less, usual).plus(about * each, best * each, worst * each)
    return Way(name, plain, cached)
