"""Ends kept engines that no run will take over any more, before another one is loaded."""

from __future__ import annotations

from runner.engines.process import warm_notes
from runner.engines.process.warm_address import Keep, folder
from runner.engines.process.warm_client import Kept, kept, stop


def retire(keep: Keep) -> str:
    """Ends those of a model, or of code of ours, that has changed since, and those that the same
    job kept with other settings. One that a run uses is left.

    Returns:
        What is to be said of it, or "".
    """
    ended, left = list[Kept](), list[Kept]()
    for one in kept():
        if one.name != keep.name and _superseded(one, keep):
            (ended if stop(one) else left).append(one)
    said = [
        f"a kept engine of {one.model} was ended (pid {one.pid}): its model, settings or code "
        "have changed since"
        for one in ended
    ]
    said += [
        f"a kept engine of {one.model} is left, as a run uses it (pid {one.pid}), though its "
        "model, settings or code have changed since; `surelocal engines --stop` ends it later"
        for one in left
    ]
    return "; ".join(said)


def _superseded(one: Kept, keep: Keep) -> bool:
    note = warm_notes.read(folder() / f"{one.name}.lock")
    if note is None:
        return False
    return note.outdated or bool(keep.owner and note.owner == keep.owner)
