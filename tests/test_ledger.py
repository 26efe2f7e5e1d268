"""The ledger: exact money, one writer, readers at any time, and what a kill leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from runner.errors import RunDirError
from runner.ledger import Egress, Ledger, open_ledger, read_ledger
from runner.ledger.answers import Part
from runner.ledger.money import from_pico, to_pico
from runner.ledger.store import COMMIT_EVERY_ROWS, Known
from runner.types import DecidedBy, Outcome, Record, Status

EGRESS = Egress("anthropic", "claude-sonnet-5-5", "http://127.0.0.1", 10, "0" * 64)
amounts = st.integers(0, 10**15).map(lambda pico: Decimal(pico) / 10**12)


def record(position: int) -> Record:
    return Record(position, f"R-{position}", {"message": "größer \u2028 '; --"}, position + 1)


def waiting(position: int) -> Outcome:
    return Outcome(position, f"R-{position}", Status.WAITING, reason="unsure", confidence=0.25,
                   field_confidence={"a": 0.5}, closed_estimate=Decimal("0.000123"))  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path) as opened:
        yield opened


@settings(deadline=None)
@given(amounts)
def test_money_survives_the_trip_to_the_last_digit(usd: Decimal) -> None:
    assert from_pico(to_pico(usd)) == usd


@settings(deadline=None)
@given(st.decimals(0, 1000, places=20))
def test_finer_money_is_never_understated(usd: Decimal) -> None:
    assert 0 <= from_pico(to_pico(usd)) - usd < Decimal("1e-12")


def test_outcomes_come_back_as_they_went_in(tmp_path: Path) -> None:
    whole = Outcome(
        2, "R-2", Status.DONE, {"a": ["ü", 1, None, 0.1]}, DecidedBy.CLOSED, "rule", 0.875,
        {"a": 0.5}, "m", Decimal("0.000000000001"), None, Decimal("123456.000000000001"),
    )  # fmt: skip
    with open_ledger(tmp_path) as ledger:
        ledger.put(whole, "digest")
        ledger.put(waiting(0), "digest", held=record(0))
    with open_ledger(tmp_path) as ledger:
        assert list(ledger.outcomes()) == [waiting(0), whole]
        assert ledger.known(2) == Known("R-2", "digest", Status.DONE) and ledger.known(1) is None
        assert ledger.is_double("R-0", 2) and not ledger.is_double("R-2", 2)
        (held,) = ledger.take_waiting(10)
        assert held.record == record(0) and held.closed_estimate == Decimal("0.000123")
        assert ledger.take_waiting(10) == []


def test_rows_are_committed_in_groups_and_money_at_once(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.ledger.store.COMMIT_EVERY_S", 3600.0)  # rows alone, however slow

    def seen() -> int:
        with read_ledger(tmp_path) as reader:
            return reader.next_position()

    for position in range(COMMIT_EVERY_ROWS - 1):
        ledger.put(waiting(position), "d", held=record(position))
    assert seen() < COMMIT_EVERY_ROWS - 1
    ledger.put(waiting(COMMIT_EVERY_ROWS - 1), "d")
    assert seen() == COMMIT_EVERY_ROWS
    ledger.put(waiting(COMMIT_EVERY_ROWS), "d")
    attempt = ledger.attempts.reserve(record(0), EGRESS, Decimal("0.25"))
    assert seen() == COMMIT_EVERY_ROWS + 1
    with read_ledger(tmp_path) as reader:
        assert reader.attempts.committed_usd() == Decimal("0.25")
        assert reader.attempts.open_attempts() == [(attempt, 0, Decimal("0.25"))]


def test_reading_goes_on_while_a_writer_writes(tmp_path: Path, ledger: Ledger) -> None:
    for position in range(10):
        ledger.put(waiting(position), "d", held=record(position))
    ledger.commit()
    with read_ledger(tmp_path) as reader:
        rows = reader.outcomes()
        first = next(rows)
        for position in range(10):
            done = Outcome(position, f"R-{position}", Status.DONE, "yes", DecidedBy.HUMAN)
            ledger.change(done)
        ledger.commit()
        # One look at the ledger shows one moment of it.
        assert {outcome.status for outcome in [first, *rows]} == {Status.WAITING}
        assert {outcome.status for outcome in reader.outcomes()} == {Status.DONE}


def test_nobody_else_can_open_it_for_writing(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(RunDirError, match="another surelocal is at work"), open_ledger(tmp_path):
        pass


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("PRAGMA user_version = 9")
    database.close()
    for way in (open_ledger, read_ledger):
        with pytest.raises(RunDirError, match="ledger version 9"), way(tmp_path):
            pass


def test_no_ledger_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no ledger"), read_ledger(tmp_path):
        pass
    with pytest.raises(RunDirError, match="no ledger"), open_ledger(tmp_path, create=False):
        pass
    sqlite3.connect(tmp_path / "ledger.sqlite").close()
    (tmp_path / "ledger.sqlite").touch()  # killed before the first table
    with pytest.raises(RunDirError, match="only begun"), read_ledger(tmp_path):
        pass
    with open_ledger(tmp_path) as ledger:
        assert list(ledger.outcomes()) == []


def test_a_local_answer_in_review_is_part_of_what_was_answered_here(ledger: Ledger) -> None:
    usd = Decimal("0.01")
    for position, (status, by) in enumerate([
        (Status.DONE, DecidedBy.LOCAL), (Status.REVIEW, None), (Status.DONE, DecidedBy.CLOSED),
        (Status.WAITING, None),
    ]):  # fmt: skip
        outcome = Outcome(position, f"R-{position}", status, "x", by, "unsure", 0.5)
        ledger.put(replace(outcome, closed_estimate=usd * (position + 1)), "d")
    # One part for each answer to the two questions, or a reader would count one for both.
    assert ledger.answers.parts() == [
        Part(True, False, 2, usd * 3), Part(True, True, 2, usd * 7)
    ]  # fmt: skip


def test_waiting_causes(ledger: Ledger) -> None:
    for position in range(4):
        ledger.put(waiting(position), "d", held=record(position))
    assert [held.record.position for held in ledger.take_waiting(2)] == [0, 1]
    ledger.set_waits_for(0, "budget")
    ledger.explain_waiting("provider_busy")
    causes = [ledger.reading.undone(position).waits_for for position in range(4)]
    assert causes == ["budget", *["provider_busy"] * 3]
    ledger.ready_waiting()
    assert len(ledger.take_waiting(10)) == 4


class Books(RuleBasedStateMachine):
    """Reservations, ends and sudden closings in any order: the sum is what it must be."""

    open_ = Bundle("open_")

    def __init__(self) -> None:
        super().__init__()
        self._folder = ExitStack()
        self._opened = ExitStack()
        self._path = Path(self._folder.enter_context(TemporaryDirectory()))
        self._ledger = self._opened.enter_context(open_ledger(self._path))
        self._spent: dict[int, Decimal] = {}
        self._reserved: dict[int, Decimal] = {}

    @rule(target=open_, worst=amounts)
    def reserve(self, worst: Decimal) -> int:
        attempt = self._ledger.attempts.reserve(record(len(self._spent)), EGRESS, worst)
        assert attempt not in self._spent
        self._spent[attempt] = self._reserved[attempt] = worst
        return attempt

    @rule(attempt=consumes(open_), part=st.integers(0, 100),
          state=st.sampled_from(["settled", "released", "unknown"]))  # fmt: skip
    def end(self, attempt: int, part: int, state: str) -> None:
        worst = self._reserved.pop(attempt)
        cost = from_pico(to_pico(worst * part / 100)) if state == "settled" else Decimal(0)
        self._ledger.attempts.end_attempt(attempt, state, cost=cost)
        self._ledger.commit()
        self._spent[attempt] = worst if state == "unknown" else cost

    @rule()
    def close_and_open(self) -> None:
        self._opened.close()
        self._ledger = self._opened.enter_context(open_ledger(self._path))

    @invariant()
    def the_sum_is_right(self) -> None:
        assert self._ledger.attempts.committed_usd() == sum(self._spent.values(), Decimal(0))
        with read_ledger(self._path) as reader:
            assert reader.attempts.committed_usd() == sum(self._spent.values(), Decimal(0))
        left = {attempt: worst for attempt, _, worst in self._ledger.attempts.open_attempts()}
        assert left == self._reserved

    def teardown(self) -> None:
        self._opened.close()
        self._folder.close()


Books.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestBooks = Books.TestCase
