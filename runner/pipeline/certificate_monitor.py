"""A run watches its own certificate: the audit's sample, its alarm, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from escalation.certify.audit import Audit, chosen
from escalation.certify.calibration import NO_ANSWER
from escalation.certify.shift import ShiftTest
from escalation.policy import Acceptance, Rule
from runner.job import id_digest
from runner.ledger import Ledger
from runner.ledger.meta import Audited
from runner.types import Answer, Event, Reason, Record, Say, notice, unheard


@dataclass(frozen=True, slots=True)
class Auditing:
    """What the audit watches.

    ``rate`` and ``seed`` draw the accepted records that are audited. ``tighter`` makes the rule
    after a first alarm; None where an alarm ends all accepting. ``usual``: the certifying sample's
    scores by their records' marks, for the test of shift; empty where looks make scores differ.
    """

    target_error: float
    delta: float
    rate: float
    seed: str
    tighter: Callable[[], Rule] | None
    usual: Mapping[str, float]

    def begin(self) -> Audit:
        # Where a second audit may follow the first, they share the chance of a false alarm.
        delta = self.delta if self.tighter is None else self.delta / 2
        return Audit(self.target_error, delta)


class CertificateMonitor:
    """``rule`` is what is accepted now. Verdicts of former runs are replayed from the ledger;
    ``say`` hears of alarms, and whoever else tells the run's user something uses it too."""

    def __init__(
        self,
        ledger: Ledger,
        rule: Rule,
        auditing: Auditing | None = None,
        say: Say = unheard,
    ) -> None:
        self.rule: Rule = rule
        self._ledger = ledger
        self._auditing = auditing
        self._audit = auditing.begin() if auditing is not None else None
        self._alarms = 0
        self._shift: ShiftTest | None = None
        if auditing is not None and auditing.usual:
            self._shift = ShiftTest(list(auditing.usual.values()), auditing.delta)
        self.say: Say = unheard
        for wrong, alarms in ledger.audits.verdicts():
            self.verdict(wrong, alarms)
        self.say = say

    def chosen(self, record: Record) -> bool:
        """Whether this accepted record is to be audited."""
        given = self._auditing
        return given is not None and chosen(record.id, given.rate, given.seed)

    def saw(self, record: Record, answer: Answer) -> None:
        """Hears of every local answer, accepted or not, for the test of shift."""
        if self._shift is None or self._auditing is None or self._shift.alarm:
            return
        if id_digest(record.id) in self._auditing.usual:
            return  # a record of the sample has been counted
        self._shift.observe(NO_ANSWER if answer.score is None else answer.score, record.id)
        if self._shift.alarm:
            self._ledger.meta.shift_alarm = True
            said = (
                "the records from here on do not look like those that were labelled (a sorted file "
                "does that too): the certificate may not hold for them; if they are new traffic, "
                "label a sample of it and calibrate again"
            )
            self.say(notice(Event.SHIFT_ALARM, said))

    @property
    def alarms(self) -> int:
        """How many alarms the audit has raised."""
        return self._alarms

    def verdict(self, wrong: bool, alarms: int) -> None:
        """Hears of one audited answer; an alarm changes ``rule`` from now on. An answer that was
        accepted before the last alarm says nothing of the rule since."""
        if self._audit is None or alarms < self.alarms:
            return
        self._audit.observe(wrong)
        if self._audit.alarm:
            self._alarms += 1
            self._respond(self._audit)

    def _respond(self, audit: Audit) -> None:
        least = audit.lower_bound
        found = (
            f"audit: {audit.wrong:,} of {audit.checked:,} audited answers were wrong, at some time "
            f"at least {least:.1%} of all: the certified error no longer holds"
        )
        facts = {"audited": audit.checked, "wrong": audit.wrong, "error_at_least": round(least, 6)}
        given = self._auditing
        assert given is not None
        tighter = given.tighter() if given.tighter is not None and self._alarms == 1 else None
        if tighter is None:
            self.rule = Acceptance(None, self.rule.escalate, Reason.ALARM)
            self._audit = None  # nothing is accepted any more that it could speak of
            said, accepting = f"{found}; accepting no more", "nothing"
        else:
            self.rule = tighter
            self._audit = given.begin()
            said, accepting = f"{found}; accepting less", "less"
        self.say(notice(Event.AUDIT_ALARM, said, accepting=accepting, alarms=self._alarms, **facts))

    def stated(self) -> Audited | None:
        """For the ledger: what was audited so far; None where nothing is."""
        found = self._ledger.audits.counts()
        if self._auditing is None or not (self._auditing.rate or found.checked):
            return None
        return Audited(found.checked, found.wrong, self.alarms)
