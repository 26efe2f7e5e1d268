"""Both halves of a run side by side: the local one, and the one that sends what waits.

Around them: the courier that makes the live calls, and the books of what a former process left
open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from escalation.send.closed_side import ClosedSide
from escalation.send.courier import JOURNAL
from escalation.send.courier_client import Courier
from escalation.send.escalate import Escalator
from escalation.send.journal import check, close
from escalation.send.session import day_cap
from runner.ledger import Ledger
from runner.pipeline.certificate_monitor import Watch
from runner.pipeline.loop import Answering, Pipeline, Progress
from runner.types import Reason, Record, Status

Say = Callable[[str], None]


def has_key(closed: ClosedSide) -> bool:
    """Whether there is what it takes to send: a server of one's own may ask for no key."""
    name = closed.settings.api_key_env
    return name is None or bool(os.environ.get(name))


@dataclass(frozen=True, slots=True)
class LocalHalf:
    """What `both_halves` runs locally: over these records, under this watch."""

    answering: Answering
    watch: Watch
    records: Iterator[Record]


@dataclass(frozen=True, slots=True)
class Stay:
    """For which batches a run stays: ``wait``, until the last is back, but for those that are
    given up before."""

    wait: bool = False
    give_up: tuple[str, ...] = ()


async def both_halves(
    ledger: Ledger,
    half: LocalHalf,
    run_dir: Path,
    closed: ClosedSide | None,
    progress: Progress,
    say: Say,
    stay: Stay = Stay(),
) -> None:
    """Runs the local half over its records, and sends what comes to wait."""
    if closed is None:
        pipeline = Pipeline(ledger, half.answering, half.watch, progress)
        await pipeline.run(half.records, None, None)
        return

    day = day_cap(closed, ledger, run_dir)
    verdict = half.watch.verdict
    escalator = Escalator(ledger, closed, progress.resettle, verdict, day, wait=stay.wait, say=say)
    pipeline = Pipeline(ledger, half.answering, half.watch, progress, escalator.guard)
    progress.money = lambda: (escalator.budget.spent, escalator.budget.cap)
    courier = Courier(run_dir, closed.settings, closed.patience, say)
    await take_up(ledger, escalator, run_dir, courier)
    for batch in stay.give_up:
        await escalator.give_up(batch)
    sends = has_key(closed)
    keyless = _Keyless(ledger, progress, closed, say)
    records = half.records if sends else keyless.over(half.records)
    try:
        live = sends and closed.settings.lane != "batch"
        async with courier if live else nullcontext() as sender:
            try:
                await pipeline.run(records, escalator if sends else None, sender)
            except BaseException:
                if under_way := len(ledger.attempts.open_attempts()):
                    say(
                        f"stopping once the paid calls under way ({under_way}) are booked; "
                        "a second Ctrl-C stops at once"
                    )
                raise
    finally:
        # Cut short by Ctrl-C or a failure, calls under way are still paid for: book them.
        await settle_open_calls(ledger, escalator, run_dir, courier)
    if not sends:
        keyless.look()
        ledger.explain_waiting(Reason.NO_KEY)
    ledger.meta.stopped = escalator.problem or escalator.guard.problem


class _Keyless:
    """Says that there is no key as soon as something waits for one, and not before."""

    def __init__(self, ledger: Ledger, progress: Progress, closed: ClosedSide, say: Say) -> None:
        self._progress = progress
        self._settings = closed.settings
        self._say: Say | None = say
        self._waits = ledger.count_waiting() > 0

    def over(self, records: Iterator[Record]) -> Iterator[Record]:
        """The same records, with a look before each."""
        for record in records:
            self.look()
            yield record

    def look(self) -> None:
        if self._say is None or not (self._waits or self._progress.by.get(Status.WAITING)):
            return
        self._say(
            f"no key in {self._settings.api_key_env}: nothing will be sent; what would go to "
            f"{self._settings.model} will wait"
        )
        self._say = None


async def take_up(ledger: Ledger, escalator: Escalator, run_dir: Path, courier: Courier) -> None:
    """Begins where a former process stopped, if that was by this very ledger.

    Raises:
        RunDirError: the courier's journal contradicts the ledger.
    """
    if (run_dir / JOURNAL).exists():
        await courier.until_free()
    check(run_dir, ledger)
    await settle_open_calls(ledger, escalator, run_dir, courier)


async def settle_open_calls(
    ledger: Ledger, escalator: Escalator, run_dir: Path, courier: Courier
) -> None:
    """Books the paid calls that a former process left open; all of them are settled then."""
    if ledger.attempts.open_attempts():
        escalator.reconcile(*await courier.former_replies())
    escalator.settle_day()
    close(run_dir, ledger)
