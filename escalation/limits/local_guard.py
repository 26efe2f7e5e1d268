"""The guard: no money for what a broken local model makes unsure.

Once there are `FIRST` local answers, and then at each of them: where more than half of the last
`WINDOW` were cut off, not valid or without a confidence, what the confidence escalates is held
back. It goes on by itself when clearly less than half are. What a rule sends is sent all the while,
and so is what is accepted and audited, and nothing that is free stops.

The window is read out of the ledger, so a run that goes on knows what the former one saw.
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
"""Shares of the window: above the first it trips, at the second and below it goes on."""
BY_CONFIDENCE = frozenset({
    Reason.UNSURE, Reason.INVALID, Reason.NO_CONFIDENCE, Reason.UNCERTIFIED, Reason.ALARM,
    Reason.EXPECTED_LOSS,
})  # fmt: skip
"""What goes to the closed model for the local answer's sake."""
CUT_OFF, INVALID, UNKNOWN = "cut off", "not valid", "without a confidence"
_MENDS = {
    CUT_OFF: "raise `local.sampling.max_tokens`, or ask for less",
    INVALID: "see whether the model fits the job's prompt, and its engine holds it to `answer`",
    UNKNOWN: "take an engine that gives logprobs, or `confidence: {threshold: 0}`",
}


def fault_of(answer: Answer, threshold: float | None) -> str | None:
    """What is wrong with a local answer, whatever it says; None where nothing is. At a threshold
    of 0 it needs no confidence."""
    if not answer.valid:
        return CUT_OFF if answer.cut_off else INVALID
    return UNKNOWN if answer.score is None and threshold != 0 else None


class Guard:
    """``say`` hears that it trips, and that it lets go again."""

    def __init__(self, ledger: Ledger, settings: Escalation, say: Say) -> None:
        self._ledger = ledger
        self._on = settings.guard == "on"
        self._say = say
        self._said = False
        self._last = deque(_former(ledger), WINDOW)
        self.tripped = self._on and self._share() > MOST_BROKEN

    @property
    def problem(self) -> str | None:
        """Why nothing more of it is sent, and what helps; None where it is."""
        if not self.tripped:
            return None
        window, faults = self._window(), self._faults()
        named = ", ".join(f"{count} {fault}" for fault, count in faults.most_common())
        mend = _MENDS[faults.most_common(1)[0][0]]
        return (
            f"{faults.total()} of the local model's last {len(window)} answers are no good "
            f"({named}), so what it leaves unsure is not paid for: {mend}, and run again; to send "
            "it all the same, set `escalation.guard: off`, or give `surelocal escalate RUN_DIR "
            "--guard off`"
        )

    def saw(self, fault: str | None) -> None:
        """Hears of every local answer, in the order in which they come."""
        self._last.append(fault)
        share = self._share()
        if self._on and not self.tripped and share > MOST_BROKEN:
            self.tripped = True
            self.hold()
            self._tell()
        elif self.tripped and share <= WELL_AGAIN:
            self.tripped = self._said = False
            self._ledger.let_go(Reason.GUARDED)
            again = "the local model's answers are good again: what was held back is sent"
            self._say(notice(Event.GUARD_RELEASED, again))

    def holds(self, reason: Reason) -> bool:
        """Whether a record that is to be sent for this reason is held back now."""
        held = self.tripped and reason in BY_CONFIDENCE
        if held:
            self._tell()
        return held

    def hold(self, *, undivided: bool = False) -> None:
        """Holds back what waits and may be sent; ``undivided``: also what still waits for its part
        of a budget."""
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
        """The last `WINDOW` answers, or while there are not so many, the last `FIRST`."""
        last = list(self._last)
        return last if len(last) == WINDOW else last[-FIRST:]

    def _faults(self) -> Counter[str]:
        """How many of these have which fault."""
        return Counter(fault for fault in self._window() if fault is not None)

    def _share(self) -> float:
        """Of no good answers; 0 while there are too few to tell."""
        window = self._window()
        if len(window) < FIRST:
            return 0.0
        return sum(fault is not None for fault in window) / len(window)


def _former(ledger: Ledger) -> list[str | None]:
    """What former runs saw of the last answers, oldest first."""
    notes = map(json.loads, ledger.trail.latest(OUTCOME, '"tokens":'))
    answers = (note for note in notes if "tokens" in note)
    return [note.get("fault") for note in islice(answers, WINDOW)][::-1]
