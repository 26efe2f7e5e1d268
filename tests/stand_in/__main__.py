"""The stand-in as a process of its own: `python -m tests.stand_in --bill bill.jsonl`.

Prints its URL, then serves until SIGTERM or SIGINT. The bill can be read meanwhile: `Bill(path)`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from .fates import FATES
from .faults import ROW_FAULTS, STEADY, STEADY_BATCH
from .server import StandIn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stand_in", description=__doc__)
    parser.add_argument("--bill", type=Path, required=True, help="the JSONL file to append to")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--oracle", type=Path, help="JSON object: text, or part of it, to value")
    parser.add_argument(
        "--faults",
        metavar="SEED:RATE[:NAME,NAME[:ENDPOINT]]",
        action="append",
        default=[],
        help="a random mix; again for another endpoint, as batch_create or batch_results",
    )
    parser.add_argument("--batch-seconds", type=float, default=0.0, metavar="S")
    parser.add_argument("--batch-polls", type=int, default=0, metavar="N")
    parser.add_argument(
        "--part-faults", metavar="SEED:RATE[:NAME,NAME]", help="a mix for the parts of batches"
    )
    parser.add_argument("--latency", type=float, default=0.0, metavar="S")
    options = parser.parse_args()
    # Blocked before any thread starts, so that every thread leaves the signals to sigwait.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    oracle = json.loads(options.oracle.read_text("utf-8")) if options.oracle else None
    with StandIn(options.bill, oracle=oracle, latency=options.latency, port=options.port) as api:
        api.batch_seconds, api.batches.polls = options.batch_seconds, options.batch_polls
        for mix in options.faults:
            _mix(api, mix)
        if options.part_faults:
            seed, rate, names = [*options.part_faults.split(":"), ""][:3]
            api.batch_parts.mix(int(seed), float(rate), names.split(",") if names else FATES)
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


def _mix(api: StandIn, text: str) -> None:
    seed, rate, names, endpoint = [*text.split(":"), "", ""][:4]
    endpoint = endpoint or "messages"
    every = STEADY if endpoint in ("messages", "chat") else STEADY_BATCH
    every += tuple(ROW_FAULTS) if endpoint in ("batch_results", "file_content") else ()
    pool = names.split(",") if names else every
    api.faults.mix(int(seed), float(rate), pool, endpoint=endpoint)


if __name__ == "__main__":
    main()
