"""How the transformers engine chooses each token, and writes down how probable it was."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.errors import EngineError, UsageError
from runner.types import Sampling

CLOSED = "transformers was closed"
_EXTRA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "min_p": (lambda v: isinstance(v, int | float) and 0 <= v <= 1, "a number from 0 to 1"),
    "repetition_penalty": (lambda v: isinstance(v, int | float) and v > 0, "a number over 0"),
    "top_k": (lambda v: isinstance(v, int) and v >= -1, "a whole number, or -1 for all"),
    "top_p": (
        lambda v: isinstance(v, int | float) and 0 < v <= 1,
        "a number over 0, and 1 at most",
    ),
}
"""What each may be, in vLLM's bounds."""


@dataclass(slots=True, eq=False)
class Row:
    """One answer in the making. The grammar holds it once it is ``answering``, not thinking.

    ``top``: each token's best alternatives as (id, natural logprob), where they were asked for.
    """

    prompt_ids: list[int]
    matcher: Any
    answering: bool
    generator: Any
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True)
class Chooser:
    """The only logits processor, so that none comes after it: masks, warps, chooses each row's
    next token and leaves ``generate`` no other. Of all the scores it keeps the chosen tokens'."""

    rows: list[Row]
    sampling: Sampling
    warpers: Sequence[Any]
    ends: list[int]
    parser: Any
    closing: threading.Event

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.closing.is_set():
            raise EngineError(CLOSED)
        self._mask(scores)
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        logprobs = scores.log_softmax(dim=-1)
        chosen = self._choose(logprobs)
        picked = logprobs.gather(1, chosen[:, None])[:, 0]
        self._keep_top(logprobs)
        for row, token, logprob in zip(self.rows, chosen.tolist(), picked.tolist(), strict=True):
            if not row.ended:
                self._write_down(row, token, logprob)
        return scores.fill_(float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def _mask(self, scores: Any) -> None:
        import xgrammar

        held = [i for i, r in enumerate(self.rows) if r.matcher and r.answering and not r.ended]
        if held:
            bits = xgrammar.allocate_token_bitmask(len(self.rows), scores.shape[-1])
            for index in held:
                self.rows[index].matcher.fill_next_token_bitmask(bits, index)
            xgrammar.apply_token_bitmask_inplace(scores, bits.to(scores.device))

    def _choose(self, logprobs: Any) -> Any:
        if self.sampling.temperature == 0:
            return logprobs.argmax(dim=-1)
        # argmax(p / Exp(1)) is a draw from p; each row's own noise keeps it free of its batch.
        noise = logprobs.new_empty(logprobs.shape)
        for index, row in enumerate(self.rows):
            noise[index].exponential_(generator=row.generator)
        return (logprobs.exp() / noise).argmax(dim=-1)

    def _keep_top(self, logprobs: Any) -> None:
        if count := min(self.sampling.top_logprobs, logprobs.shape[-1]):
            best = logprobs.topk(count, dim=-1)
            found = zip(self.rows, best.indices.tolist(), best.values.tolist(), strict=True)
            for row, tokens, values in found:
                if not row.ended:
                    row.top.append(list(zip(tokens, values, strict=True)))

    def _write_down(self, row: Row, token: int, logprob: float) -> None:
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in self.ends:
            row.ended = True
        elif not row.answering:
            so_far = row.prompt_ids + row.ids
            row.answering = self.parser.is_reasoning_end_streaming(so_far, [token])
        elif row.matcher:
            row.matcher.accept_token(token)


def warpers(library: Any, sampling: Sampling) -> list[Any]:
    """In vLLM's order: penalty, temperature, then what cuts the tail."""
    extra = dict(sampling.extra)
    for name in extra:
        if name not in _EXTRA:
            raise UsageError(
                f"local.sampling: the transformers engine has no `{name}`{near(name, _EXTRA)}"
            )
        fits, what = _EXTRA[name]
        if isinstance(extra[name], bool) or not fits(extra[name]):
            raise UsageError(f"local.sampling: {name} is {what}, not {extra[name]!r}")
    wanted: list[tuple[Any, float]] = []
    if (penalty := extra.get("repetition_penalty", 1.0)) != 1.0:
        wanted.append((library.RepetitionPenaltyLogitsProcessor, penalty))
    if sampling.temperature > 0:
        wanted.append((library.TemperatureLogitsWarper, float(sampling.temperature)))
        if (min_p := extra.get("min_p", 0.0)) > 0:
            wanted.append((library.MinPLogitsWarper, min_p))
        if (top_k := extra.get("top_k", 0)) > 0:
            wanted.append((library.TopKLogitsWarper, top_k))
        if (top_p := extra.get("top_p", 1.0)) < 1:
            wanted.append((library.TopPLogitsWarper, top_p))
    try:
        return [warper(value) for warper, value in wanted]
    except (TypeError, ValueError) as error:
        raise UsageError(f"local.sampling: {first_line(error)}") from None


def near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2 and "validation error" in lines[0]:
        # pydantic: a count, the field, and only then what is wrong.
        lines = [next((line for line in lines if "rror, " in line), lines[-1])]
    return lines[0].removeprefix("Value error, ") if lines else type(error).__name__
