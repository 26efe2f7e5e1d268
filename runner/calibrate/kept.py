"""The local model's answers to a calibration's records, kept until the calibration is saved.

They stand in a file beside it, one on a line, so that a command that was cut short goes on where it
was. The first line names the job that they belong to; what another job left there is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from escalation.certify.calibration import IDENTITY
from escalation.certify.classes import apart, joined
from runner.answering.prompts import Renderer
from runner.answering.scoring import SCORING
from runner.job import Job
from runner.pipeline.answer import LocalAnswer
from runner.pipeline.decide import digest_of
from runner.private import opener
from runner.types import Answer, Event, Record, Say, notice

ENDING = ".answers"
_LINE = {"id", "digest", "looked", "answer", "found"}


class Kept:
    """A context manager, open while the model is asked. ``say`` hears why nothing can be kept: the
    calibration is made all the same."""

    def __init__(self, job: Job, calibration: Path, say: Say) -> None:
        self._path = calibration.with_name(calibration.name + ENDING)
        self._job = _named(job)
        self._say = say
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Kept:
        try:
            whole = self._read()
            self._file = open(self._path, "ab", opener=opener)
            self._file.truncate(whole)
        except OSError as error:
            self._unable(error)
            return self
        if not whole:
            self._write(self._job)
        return self

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a full disk, which was told
                file.close()

    def remove(self) -> None:
        """The calibration is saved: nobody needs them any more."""
        with suppress(OSError):
            self._path.unlink()

    def has(self, record: Record, *, look: bool) -> bool:
        """Whether the model was asked about the record before. ``look``: with further looks, if the
        job takes any."""
        line = self._known.get(_key(record))
        return line is not None and (line["looked"] or not look)

    def of(self, record: Record, renderer: Renderer) -> LocalAnswer | None:
        """The answer to a record that it `has`; None where the model had none."""
        line = self._known[_key(record)]
        if line["answer"] is None:
            return None
        found = line["found"] and joined(line["found"])
        return LocalAnswer(renderer.render(record), _answer(line["answer"]), found=found)

    def add(self, record: Record, local: LocalAnswer | None, *, look: bool) -> None:
        """Keeps an answer, or that there is none. It outlives this process, but not the machine."""
        name, digest = _key(record)
        line: dict[str, Any] = {"id": name, "digest": digest, "looked": look}
        line["answer"] = None if local is None else _plain(local.answer)
        line["found"] = None if local is None or local.found is None else apart(local.found)
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            self._unable(error)

    def _unable(self, error: OSError) -> None:
        self.__exit__()
        said = (
            f"cannot write {self._path}: {error.strerror}; the answers are not kept, and if this "
            "command is stopped it begins anew"
        )
        self._say(notice(Event.ANSWERS_NOT_KEPT, said, path=self._path, problem=error.strerror))

    def _read(self) -> int:
        """How many bytes of the file are whole lines about this job."""
        whole = 0
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        for raw in lines:
            line = _parsed(raw)
            if line is None or (line.keys() != _LINE if whole else line != self._job):
                break
            if whole:
                self._known[line["id"], line["digest"]] = line
            whole += len(raw)
        return whole


def _named(job: Job) -> dict[str, Any]:
    """All that the answers depend on."""
    identity = job.identity()
    named = {name: identity[name] for name in IDENTITY}
    return {"job": named, "scoring": SCORING, "top_logprobs": job.confidence.top_logprobs}


def _key(record: Record) -> tuple[str, str]:
    return record.id, digest_of(record.given)


def _plain(answer: Answer) -> dict[str, Any]:
    return asdict(answer) | {"scores": apart(answer.scores)}


def _answer(plain: Mapping[str, Any]) -> Answer:
    return Answer(**{**plain, "scores": joined(plain["scores"])})


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """None where the line is no whole one: whoever wrote it was cut short."""
    try:
        line = json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
