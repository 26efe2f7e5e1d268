"""Our tokens per second and CPU seconds against vLLM's own ways and Ray Data, and what each part of
the check costs.

    python scripts/bench/throughput.py [--rounds 3] [--quick] [--only NAME]...

The work is the demo's records that go to the model: the same prompts, sampling, schema, logprobs,
engine settings and cores for all. Each round runs every way once in fresh processes, and begins
with another one. What is measured goes from the engine, or server, that is loaded and has answered
one request of another kind (`vllm run-batch` cannot be asked one) to the last answer; ``load`` is
what came before. Ours has reading, routing, the check, the ledger, the results and closing the
engine in it, and works off the demo's whole file; `LLM.chat` writes nothing; the other peers write
every answer with its logprobs. CPU seconds are those of all of a way's processes, its client's too.

``--quick``: the first 500 records, once. ``--only``: these ways alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from engines import table
from engines.meter import Took
from engines.ours import calibrate
from engines.ways import LOOKS, WAYS, measured, one

QUICK_RECORDS = 500


def rounds(names: list[str], count: int, limit: int | None, made: Path) -> table.Found:
    """What each way took, round by round; one that does not run is told, and missing."""
    found: table.Found = {name: {} for name in names}
    for number in range(count):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = measured(name, limit, made)
            print(f"{name}: {told(took)}", flush=True)
            if isinstance(took, Took):
                found[name][number] = took
    return found


def told(took: Took | str) -> str:
    if isinstance(took, str):
        return took
    return (
        f"{took.tokens:,} tokens in {took.seconds:.1f} s, {took.rate:,.0f} tokens/s, "
        f"{took.cpu_s:.1f} CPU s; load: {took.load_s:.1f} s{took.said and '; '}{took.said}"
    )


def calibrations(names: list[str], made: Path) -> None:
    for name in names:
        if (looks := LOOKS.get(name)) is not None:
            print(f"calibrated for {name}: {calibrate(made, looks):.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=WAYS, metavar="NAME")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit = QUICK_RECORDS if options.quick else None
    if options.one:
        print(one(options.one, limit, options.made))
        return
    names = [name for name in WAYS if name in (options.only or WAYS)]
    with tempfile.TemporaryDirectory() as folder:
        calibrations(names, Path(folder))
        found = rounds(names, options.rounds or (1 if options.quick else 3), limit, Path(folder))
    table.compared(found)
    table.costs(found)


if __name__ == "__main__":
    main()
