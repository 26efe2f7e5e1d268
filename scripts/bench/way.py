"""Which files of the product a record passes on its way, one that stays local and one that is paid.

    python scripts/bench/way.py

Runs the demo with the demo's own model and the real courier, against the tests' stand-in for the
closed API. Once everything is set up, some records go through one at a time, from being read to
being booked. Two numbers are printed:

- the *way*: files with a function that is given the record, or what became of it (`CARRIED`:
  its prompt, its answer, its outcome, the call that is paid for it …). Who follows a record reads
  these;
- *in all*: files with any function that runs meanwhile, the encoders and sums at the bottom too.

Only what every traced record passed is counted: a clock's tick beside one of them is no part of it.
Other processes (the model's own, the courier's) are not seen. Files are listed by room; the local
engine's own, which are the same for any caller of it, are counted apart.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from escalation.policy import Routed, Router  # noqa: E402
from escalation.providers.protocol import Reply  # noqa: E402
from runner.job import Job  # noqa: E402
from runner.job.file import load_job  # noqa: E402
from runner.ledger.attempts import Intent  # noqa: E402
from runner.pipeline import assemble, loop  # noqa: E402
from runner.pipeline.answer import LocalAnswer  # noqa: E402
from runner.pipeline.outcomes import Case  # noqa: E402
from runner.pipeline.progress import Progress  # noqa: E402
from runner.pipeline.run import RunRequest, run_job  # noqa: E402
from runner.types import (  # noqa: E402
    Answer,
    Completion,
    Outcome,
    Prompt,
    Record,
    Route,
    Status,
)  # fmt: skip
from tests.stand_in import StandIn  # noqa: E402

KEY = "SURELOCAL_BENCH_KEY"
WARM, TRACED = 2, 5
WAYS = {"local": 0.0, "paid": 1.0}
"""The threshold at which every local answer stands, or none does."""
PRODUCT = tuple(str(ROOT / room) + os.sep for room in ("runner", "escalation"))
ENGINE = "runner/engines"
TURN_S = 0.005
CARRIED = (Record, Prompt, Completion, Answer, Outcome, Routed, Case, LocalAnswer, Reply, Intent)


class Seen:
    """Notes whose functions are called, in every thread, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.files: set[str] = set()
        self.way: set[str] = set()
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.on and event == "call" and frame.f_code.co_filename.startswith(PRODUCT):
            code = frame.f_code
            self.files.add(code.co_filename)
            given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if any(isinstance(frame.f_locals.get(name), CARRIED) for name in given):
                self.way.add(code.co_filename)


@dataclass(slots=True)
class Settled(Progress):
    """Hears of records that are settled for good."""

    names: set[str] = field(default_factory=set)
    seen_by: Seen | None = None

    def count(self, outcome: Outcome) -> None:
        Progress.count(self, outcome)
        if outcome.status is not Status.WAITING:
            self._settle(outcome)

    def resettle(self, outcome: Outcome) -> None:
        Progress.resettle(self, outcome)
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        self.names.add(outcome.record_id)
        if self.seen_by is not None and outcome.reason != "bad_record":
            self.seen_by.on = False


@dataclass(slots=True)
class OneByOne:
    """The demo's records that reach the local model, each only once the last one is settled. Until
    then the run is given empty records, so that it gets a turn: they are in error at once."""

    job: Job
    records: Iterator[Record]
    settled: Settled
    seen: Seen
    ways: list[tuple[set[str], set[str]]] = field(default_factory=list)
    _place: int = 0

    def __iter__(self) -> Iterator[Record]:
        router = Router(self.job)
        for number in range(WARM + TRACED):
            record = self._next(router)
            yield self._placed(record)
            while record.id not in self.settled.names:
                time.sleep(TURN_S)
                yield self._placed(Record(0, f"empty {self._place}", {}, 0, "empty"))
            if number >= WARM:
                self.ways.append((self.seen.way, self.seen.files))

    def _next(self, router: Router) -> Record:
        while True:
            self.seen.way, self.seen.files, self.seen.on = set(), set(), True
            record = next(self.records)
            self.seen.on = False
            if record.problem is None and router.route(record).route is Route.LOCAL:
                self.seen.on = True
                return record

    def _placed(self, record: Record) -> Record:
        self._place += 1
        return Record(self._place - 1, record.id, record.fields, record.line, record.problem)


def way(threshold: float, url: str, folder: Path, seen: Seen) -> tuple[set[str], set[str]]:
    """The files of the way, and all that ran, of each traced record."""
    overrides = (
        f'escalation.base_url="{url}"', f"escalation.api_key_env={KEY}",
        f"confidence.threshold={threshold}",
    )  # fmt: skip
    job = load_job(ROOT / "configs" / "demo" / "job.yaml", overrides).job
    settled, given = Settled(seen_by=seen), assemble.records
    one_by_one = OneByOne(job, given(job), settled, seen)
    assemble.records = lambda *_: iter(one_by_one)
    try:
        run_job(RunRequest(job, folder, folder / "results.jsonl"), settled, lambda text: None)
    finally:
        assemble.records = given
    ways, files = zip(*one_by_one.ways, strict=True)
    return set.intersection(*ways), set.intersection(*files)


def tell(name: str, way: set[str], files: set[str]) -> None:
    paths = [Path(file).relative_to(ROOT) for file in sorted(files)]
    on_it = {path for path in paths if str(ROOT / path) in way}
    ours, engines = (
        [path for path in paths if (_room(path) == ENGINE) is of_engine]
        for of_engine in (False, True)
    )
    print(
        f"{name}: the way has {len(on_it.intersection(ours))} files and "
        f"{len(on_it.intersection(engines))} of the engine's own; in all "
        f"{len(ours)} and {len(engines)} run"
    )
    for room in dict.fromkeys(map(_room, paths)):
        there = [path for path in paths if _room(path) == room]
        named = ", ".join(path.stem if path in on_it else f"({path.stem})" for path in there)
        print(f"  {room:<22}{len(on_it.intersection(there)):3}  {named}")


def _room(path: Path) -> str:
    return "/".join(path.parts[: min(2, len(path.parts) - 1)])


def main() -> None:
    os.environ[KEY] = "no key at all"
    loop.BREATH = 1
    seen = Seen()
    with tempfile.TemporaryDirectory() as place:
        for name, threshold in WAYS.items():
            folder = Path(place) / name
            folder.mkdir()
            with StandIn(folder) as api:
                tell(name, *way(threshold, api.url, folder / "run", seen))


if __name__ == "__main__":
    main()
