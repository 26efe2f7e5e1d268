"""The stand-in as a process of its own: `python -m tests.stand_in --bill bill.jsonl`.

Prints its URL, then serves until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from .server import StandIn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stand_in", description=__doc__)
    parser.add_argument("--bill", type=Path, required=True, help="the JSONL file to append to")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--oracle", type=Path, help="JSON object: text, or part of it, to value")
    parser.add_argument("--faults", metavar="SEED:RATE:NAME,NAME", help="a random mix")
    parser.add_argument("--batch-seconds", type=float, default=0.0, metavar="S")
    parser.add_argument("--batch-polls", type=int, default=0, metavar="N")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S")
    options = parser.parse_args()
    # Blocked before any thread starts, so that every thread leaves the signals to sigwait.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    oracle = json.loads(options.oracle.read_text("utf-8")) if options.oracle else None
    with StandIn(options.bill, oracle=oracle, latency=options.latency, port=options.port) as api:
        api.batches.seconds, api.batches.polls = options.batch_seconds, options.batch_polls
        if options.faults:
            seed, rate, names = options.faults.split(":")
            api.faults.mix(int(seed), float(rate), names.split(","), endpoint="messages")
        sys.stdout.write(f"{api.url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
