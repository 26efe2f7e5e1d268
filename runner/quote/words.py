"""A quote as tables and sentences; `runner.quote.show` puts them on a terminal or into a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from escalation.providers.prices import price_date
from runner.formats.amounts import duration, usd
from runner.quote import Quote
from runner.quote.certifying import Curve, Point
from runner.quote.intervals import Range
from runner.quote.money import BATCH_HITS


@dataclass(frozen=True, slots=True)
class Section:
    """The first column is text, the others are numbers."""

    title: str
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()
    notes: Sequence[str] = ()


def title(quote: Quote) -> str:
    how = f"a pilot on {quote.pilot:,} of them, drawn at random"
    if quote.pilot == quote.size:
        how = "a pilot on all of them"
    return f"Quote for {quote.job.name}: {quote.size:,} records, by {how}"


def sections(quote: Quote) -> list[Section]:
    found = [_counts(quote), _money(quote), _time(quote)]
    return [*found, _curve(quote, quote.curve)] if quote.curve is not None else found


def _counts(quote: Quote) -> Section:
    rows = [
        (one.words, f"{one.found:,}", _whole(one.of_all), _share(one.of_all, quote.size))
        for one in quote.counts
    ]
    notes = ["In brackets 95 % intervals, exact for a random sample of this batch."]
    if quote.uncalibrated:
        notes.append(
            "The job is to certify an error and has no calibration yet: so far it accepts nothing, "
            "and every local answer would be escalated."
        )
    head = ("", "pilot", "of all", "share")
    return Section("Records", head, rows, notes)


def _money(quote: Quote) -> Section:
    closed = quote.job.escalation
    if closed is None:
        return Section("Cost", notes=["The job has no `escalation`: nothing would be paid."])
    if not quote.ways:
        nothing = f"The price of {closed.model} is 0: nothing would be paid."
        return Section("Cost", notes=[nothing])
    cached = quote.cache is not None
    head = (f"by {closed.model}", "nothing cached", *(("with its cache",) if cached else ()))
    rows = [
        (one.name, *(_dollars(r) for r in (one.plain, one.cached) if r is not None))
        for one in quote.ways
    ]
    return Section("Cost", head, rows, [*_money_notes(quote)])


def _money_notes(quote: Quote) -> Iterator[str]:
    closed = quote.job.escalation
    assert closed is not None
    yield (
        f"Prices of {price_date()}. A record is priced as a run estimates it before any bill: four "
        "bytes a token, and a closed answer as long as the local one. The 95 % intervals (in "
        "brackets) are over the pilot's draw; the provider's own count of tokens comes on top."
    )
    if quote.cache is not None:
        best, _, worst = BATCH_HITS
        batch = f"; of a batch {worst:.0%} to {best:.0%} find it" if quote.batch_share < 1 else ""
        yield (
            f"With its cache: all requests share their first {quote.cache.tokens:,} tokens or so; "
            f"live, up to {quote.cache.at_once} write them and the others read them{batch}."
        )
    hybrid = next(one for one in quote.ways if one.name.startswith("Hybrid"))
    cap = closed.budget_usd
    if Decimal(str(hybrid.plain.high)) > cap:
        yield (
            f"The job's cap is {usd(cap)}: what would go beyond it is not sent and waits; "
            "the hybrid is quoted without the cap."
            if quote.job.confidence.policy != "budget"
            else f"The job spends its budget of {usd(cap)} and no more."
        )
    if closed.max_usd_per_record is not None:
        yield "What may cost more than `max_usd_per_record` is priced as if it were sent."
    yield "Nothing was sent for this quote."


def _time(quote: Quote) -> Section:
    time = quote.time
    rows = [
        ("loading the model", duration(time.loading_s)),
        ("the local half of all records", f"{duration(time.low)} – {duration(time.high)}"),
    ]
    if time.gpu_usd is not None:
        low, high = map(usd, time.gpu_usd)
        rows.append(("this machine, for that time", f"{low} – {high}"))
    notes = ["No record of the pilot reached the local model: none was loaded."]
    if time.records_a_second is not None:
        notes = [
            f"The pilot's {time.answered:,} local answers took {time.pilot_s:.1f} s, "
            f"{time.records_a_second:,.1f} a second, warming up included. The range goes from that "
            f"pace to {time.gain:.1f} times it, which a long run with a full batch may reach, if "
            "nothing else keeps the machine busy."
        ]
    if quote.ways:
        notes.append(
            "Live calls go on meanwhile, and how fast the provider answers is not known before one "
            "is sent; its batches may take a day."
        )
    return Section("Time on this machine", ("", "takes"), rows, notes)


def _curve(quote: Quote, curve: Curve) -> Section:
    paid = ("spend, live",) if quote.ways else ()
    last = "labels it takes" if curve.labels is None else "certified, or labels"
    head = ("error", "kept local", "escalated", *paid, last)
    rows = list[tuple[str, ...]]()
    for one in curve.points:
        spend = (_dollars(one.usd),) if quote.ways else ()
        kept = _share(one.accepted, curve.answered)
        sent = _share(one.escalated, quote.size)
        rows.append((f"≤ {one.target:.1%}", kept, sent, *spend, _labels(one)))
    name = "Certified error" if curve.labels is not None else "Certified error: none yet"
    return Section(name, head, rows, [*_curve_notes(quote, curve)])


def _labels(one: Point) -> str:
    if one.certified:
        return "yes"
    return f"about {one.labels_needed:,}" if one.labels_needed else "no number does"


def _curve_notes(quote: Quote, curve: Curve) -> Iterator[str]:
    if curve.labels is None:
        yield (
            "Nothing can be certified without labels. The rows are an indication only: what they "
            "would be if the model's own uncalibrated probabilities were right, which nobody has "
            "checked."
        )
        yield (
            "To certify: label a random sample of the records, the hard ones too, and give it here "
            "as --labels FILE."
        )
        return
    of = "all that is delivered" if curve.overall else "the accepted local answers"
    yield (
        f"By {curve.labels:,} of {curve.source}: with {1 - curve.delta:.0%} confidence, at most "
        f"that share of {of} is wrong; each row holds on its own. What is kept (of the local "
        "answers), escalated and spent (nothing cached) is by the pilot."
    )
    yield from _more(curve)


def _more(curve: Curve) -> Iterator[str]:
    """What the next lower target takes."""
    lower = [one for one in curve.points if not one.certified]
    if not lower:
        return
    has = f" (there are {curve.labels:,})" if curve.labels is not None else ""
    reachable = [one for one in lower if one.labels_needed]
    if reachable:
        one = max(reachable, key=lambda point: point.target)
        yield f"To certify {one.target:.1%}: about {one.labels_needed:,} labels{has}."
    hopeless = [f"{one.target:.1%}" for one in lower if not one.labels_needed]
    if hopeless:
        yield (
            f"For {' and '.join(hopeless)} no number of labels of this batch would do: "
            "even the surest answers seem to be wrong too often."
        )


def _whole(found: Range) -> str:
    return f"{found.value:,.0f} ({found.low:,.0f}–{found.high:,.0f})"


def _dollars(found: Range) -> str:
    """To the cent, or where the whole is less than ten of them, to its hundredth."""
    digits = 2 if max(found.value, found.high / 2) >= 0.1 else 4
    return f"${found.value:,.{digits}f} ({found.low:,.{digits}f}–{found.high:,.{digits}f})"


def _share(found: Range, of: int) -> str:
    top = min(1.0, found.high / of)
    value, low = min(1.0, found.value / of), min(1.0, found.low / of)
    digits = 0 if low >= 0.1 else 1
    return f"{value:.1%} ({100 * low:.{digits}f}–{100 * top:.{digits}f})"
