"""The guard: a broken local model must not cause spending.

From the `FIRST` local answers on, the guard checks at each answer whether more than half of the
last `WINDOW` were cut off, not valid or without a confidence. If so, it holds back the records that
the confidence would escalate, and releases them when clearly less than half are faulty. Records
sent by a rule and audited records are still sent, and local work continues.

The window is read from the ledger, so a resumed run continues with the former run's answers.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from itertools import islice

from runner.job import Escalation
from runner.ledger import Ledger
from runner.ledger.trail import OUTCOME
from runner.types import Answer, Event, Reason, Say, notice

FIRST, WINDOW = 50, 100
MOST_BROKEN, WELL_AGAIN = 0.5, 0.4
"""Shares of the window: the guard trips above the first and releases at or below the second."""
BY_CONFIDENCE = frozenset({
    Reason.UNSURE, Reason.INVALID, Reason.NO_CONFIDENCE, Reason.UNCERTIFIED, Reason.ALARM,
    Reason.EXPECTED_LOSS,
})  # fmt: skip
"""The reasons for which the local answer causes the escalation."""
CUT_OFF, INVALID, UNKNOWN = "cut off", "not valid", "without a confidence"
_FIXES = {
    CUT_OFF: "raise `local.sampling.max_tokens`, or ask for shorter answers",
    INVALID: "check that the model suits the prompt and that its engine enforces `answer`",
    UNKNOWN: "use an engine that returns logprobs, or set `confidence: {threshold: 0}`",
}


def fault_of(answer: Answer, threshold: float | None) -> str | None:
    """The fault of a local answer, apart from its content; None if it has none. At a threshold of
    0, a missing confidence is no fault."""
    if not answer.valid:
        return CUT_OFF if answer.cut_off else INVALID
    return UNKNOWN if answer.score is None and threshold != 0 else None


class Guard:
    """The guard of one run. Calls ``say`` when it trips and when it releases."""

    def __init__(self, ledger: Ledger, settings: Escalation, say: Say) -> None:
        self._ledger = ledger
        self._on = settings.guard == "on"
        self._say = say
        self._said = False
        self._last = deque(_former(ledger), WINDOW)
        self.tripped = self._on and self._share() > MOST_BROKEN

    @property
    def problem(self) -> str | None:
        """Why records are held back, and the fix; None if the guard has not tripped."""
        if not self.tripped:
            return None
        window, faults = self._window(), self._faults()
        named = ", ".join(f"{count} {fault}" for fault, count in faults.most_common())
        fix = _FIXES[faults.most_common(1)[0][0]]
        return (
            f"{faults.total()} of the local model's last {len(window)} answers are unusable "
            f"({named}), so its unsure records are held back, not sent: {fix}, and run again; to "
            "send them anyway, set `escalation.guard: off` or use `surelocal escalate RUN_DIR "
            "--guard off`"
        )

    def saw(self, fault: str | None) -> None:
        """Records the fault, if any, of each local answer, in order of arrival."""
        self._last.append(fault)
        share = self._share()
        if self._on and not self.tripped and share > MOST_BROKEN:
            self.tripped = True
            self.hold()
            self._tell()
        elif self.tripped and share <= WELL_AGAIN:
            self.tripped = self._said = False
            self._ledger.let_go(Reason.GUARDED)
            again = "the local model's answers are usable again: records held back are now sent"
            self._say(notice(Event.GUARD_RELEASED, again))

    def holds(self, reason: Reason) -> bool:
        """Whether a record to be sent for this reason is currently held back."""
        held = self.tripped and reason in BY_CONFIDENCE
        if held:
            self._tell()
        return held

    def hold(self, *, undivided: bool = False) -> None:
        """Holds back the waiting records; ``undivided``: also those that wait for their share of a
        budget."""
        if self.tripped and self._ledger.hold_back(
            sorted(BY_CONFIDENCE), Reason.GUARDED, undivided=undivided
        ):
            self._tell()

    def _tell(self) -> None:
        if not self._said and self.problem is not None:
            self._said = True
            answers, faults = len(self._window()), self._faults()
            self._say(
                notice(
                    Event.GUARD_TRIPPED, self.problem,
                    answers=answers, broken=faults.total(), faults=dict(faults),
                )
            )  # fmt: skip

    def _window(self) -> list[str | None]:
        """The last `WINDOW` answers or, while there are fewer, the last `FIRST`."""
        last = list(self._last)
        return last if len(last) == WINDOW else last[-FIRST:]

    def _faults(self) -> Counter[str]:
        """How many of these have which fault."""
        return Counter(fault for fault in self._window() if fault is not None)

    def _share(self) -> float:
        """The share of faulty answers; 0 while there are fewer than `FIRST`."""
        window = self._window()
        if len(window) < FIRST:
            return 0.0
        return sum(fault is not None for fault in window) / len(window)


def _former(ledger: Ledger) -> list[str | None]:
    """The faults of the last answers in the ledger, oldest first."""
    notes = map(json.loads, ledger.trail.latest(OUTCOME, '"tokens":'))
    answers = (note for note in notes if "tokens" in note)
    return [note.get("fault") for note in islice(answers, WINDOW)][::-1]
