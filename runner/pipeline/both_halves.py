"""Both halves of a run side by side: the local one, and the one that sends what waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from escalation.send.closed_side import ClosedSide
from escalation.send.session import PaidSession
from runner.ledger import Ledger
from runner.pipeline.answer import LocalHalf
from runner.pipeline.decide import Rules
from runner.pipeline.loop import Pipeline, Progress
from runner.types import Event, Reason, Record, Say, Status, notice


@dataclass(frozen=True, slots=True)
class Work:
    """What is answered, by what, and how that is decided on."""

    half: LocalHalf
    rules: Rules
    records: Iterator[Record]


@dataclass(frozen=True, slots=True)
class Stay:
    """For which batches a run stays: ``wait``, until the last is back, but for those that are
    given up before."""

    wait: bool = False
    give_up: tuple[str, ...] = ()


async def both_halves(
    ledger: Ledger,
    work: Work,
    run_dir: Path,
    closed: ClosedSide | None,
    progress: Progress,
    say: Say,
    stay: Stay = Stay(),
) -> None:
    """Runs the local half over its records, and sends what comes to wait."""
    if closed is None:
        pipeline = Pipeline(ledger, work.half, work.rules, progress)
        await pipeline.run(work.records, None, None)
        return

    settled = (progress.resettle, work.rules.monitor.verdict)
    session = PaidSession(ledger, closed, run_dir, say, *settled, wait=stay.wait)
    escalator = session.escalator
    progress.money = lambda: (escalator.budget.spent, escalator.budget.cap)
    pipeline = Pipeline(ledger, work.half, work.rules, progress, escalator.guard)
    async with session.open(stay.give_up):
        try:
            if closed.has_key:
                await pipeline.run(work.records, escalator, session.sender)
            else:
                keyless = _Keyless(ledger, progress, closed, say)
                await pipeline.run(keyless.over(work.records), None, None)
                keyless.look()
                ledger.explain_waiting(Reason.NO_KEY)
        except BaseException:
            if under_way := len(ledger.attempts.open_attempts()):
                said = (
                    f"stopping once the paid calls under way ({under_way}) are booked; "
                    "a second Ctrl-C stops at once"
                )
                say(notice(Event.STOPPING, said, calls=under_way))
            raise


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
        variable, model = self._settings.api_key_env, self._settings.model
        said = f"no key in {variable}: nothing will be sent; what would go to {model} will wait"
        self._say(notice(Event.NO_KEY, said, variable=variable, model=model))
        self._say = None
