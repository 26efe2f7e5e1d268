"""Whether it pays to send long prompts first: the same records in four orders, simulated.

    python scripts/bench/order.py

vLLM's continuous batching, step by step: a step takes as many tokens as its budget allows, of
prompts that are read and answers that are written, and lasts as long as reading the weights does
and then by the token. The numbers are those of an 8B model in bf16 on a large GPU. A run gives the
engine ``2 * SEQUENCES`` records at once, as ours does.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SEQUENCES, BUDGET = 256, 8192
STEP_S, TOKEN_S = 0.006, 32e-6
AHEAD = 2048
SPREAD = (0.7, 1.3)


@dataclass(slots=True)
class Request:
    """What is still to be read of the prompt, and to be written of the answer."""

    prompt: int
    answer: int

    def step(self, left: int) -> int:
        """Takes of the step's tokens what it can use; returns how many that were."""
        if self.prompt:
            taken = min(self.prompt, left)
            self.prompt -= taken
            return taken
        taken = min(1, left)
        self.answer -= taken
        return taken


def seconds(lengths: Iterable[tuple[int, int]]) -> float:
    """How long the engine takes over (prompt, answer) lengths, given in this order."""
    source = iter(lengths)
    waiting: deque[Request] = deque()
    running: list[Request] = []
    clock = 0.0
    while True:
        while len(waiting) + len(running) < 2 * SEQUENCES and (more := next(source, None)):
            waiting.append(Request(*more))
        while waiting and len(running) < SEQUENCES:
            running.append(waiting.popleft())
        if not running:
            return clock
        left = BUDGET
        for request in sorted(running, key=lambda one: one.prompt > 0):  # answers go on first
            left -= request.step(left)
        clock += STEP_S + TOKEN_S * (BUDGET - left)
        running = [one for one in running if one.prompt or one.answer]


def ahead(lengths: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The longest prompt among the next `AHEAD`, each time."""
    seen: list[tuple[int, int]] = []
    for one in lengths:
        seen.append(one)
        if len(seen) == AHEAD:
            yield seen.pop(seen.index(max(seen)))
    yield from sorted(seen, reverse=True)


def mixed(
    count: int, share: float, short: tuple[int, int], long: tuple[int, int]
) -> list[tuple[int, int]]:
    draw = random.Random(0)
    chosen = [long if draw.random() < share else short for _ in range(count)]
    return [(round(p * draw.uniform(*SPREAD)), round(a * draw.uniform(*SPREAD))) for p, a in chosen]


def main() -> None:
    print("seconds of the whole batch, and against the order of the file")
    for count in (1_000, 10_000):
        for share, short, long in (
            (0.1, (150, 24), (6_000, 24)),
            (0.02, (150, 24), (25_000, 24)),
            (0.1, (150, 24), (6_000, 600)),
            (0.1, (300, 200), (3_000, 200)),
        ):
            usual = mixed(count, share, short, long)
            base = seconds(usual)
            orders = {
                "longest last": seconds(sorted(usual)),
                "longest first": seconds(sorted(usual, reverse=True)),
                f"longest of {AHEAD} ahead": seconds(ahead(usual)),
            }
            told = ", ".join(f"{name} {s / base - 1:+.1%}" for name, s in orders.items())
            print(f"{count:,}, {share:.0%} of {long} among {short}: {base:.0f} s; {told}")


if __name__ == "__main__":
    main()
