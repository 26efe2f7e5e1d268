"""A request for a chat completion → a record of the job.

Its messages are the prompt, as a line's of an OpenAI batch file are. One thing is different: a job
with a ``prompt`` of its own gives it to a request that is a single message of the user's, so that
a client which sends no more than a text gets the very answer that the batch would have given. With
a certificate, which speaks of that prompt and of the job's sampling, nothing else is taken.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from runner.answering.prompts import Renderer, renderer_of
from runner.errors import RecordError, UsageError
from runner.formats.openai_request import MOST_USD, NAMES, URL, answer_of, fields_of
from runner.job import Job
from runner.pipeline.decide import digest_of
from runner.serve.options import OnUnsure
from runner.types import Message, Record

ON_UNSURE = "surelocal_on_unsure"
RECORD_ID = "record_id"
OWN_PREFIX = "chatcmpl-"
LONGEST_ID = 200
# What is about the way back alone, and no part of what is asked.
_ABOUT_THE_REPLY = ("stream", "stream_options", ON_UNSURE, MOST_USD)
_SAMPLING = ("max_tokens", "max_completion_tokens", "temperature", "seed", "top_p",
             "frequency_penalty", "presence_penalty", "stop")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``named``: its client gave it its id, so that it may ask again by that name."""

    id: str
    named: bool
    fields: Mapping[str, Any]
    mark: str
    on_unsure: OnUnsure
    stream: bool = False
    include_usage: bool = False

    def record(self, position: int) -> Record:
        return Record(position, self.id, self.fields, position + 1)


class Intake:
    """Made for one job."""

    def __init__(self, job: Job, on_unsure: OnUnsure = "error") -> None:
        self._job = job
        self._on_unsure = on_unsure
        self._own: Renderer | None = renderer_of(job) if job.prompt is not None else None
        self._sure_of_prompt = self._own is not None and job.confidence.certifies

    @property
    def model(self) -> str:
        """What is served, whatever a request asks for."""
        return self._job.local.model

    @property
    def private(self) -> bool:
        """Whether an id might be what the job redacts."""
        return bool(self._job.privacy.redact or self._job.privacy.patterns)

    def asked(self, body: object, headers: Mapping[str, str]) -> Asked:
        """Raises ValueError with the sentence for a request that cannot be done as asked."""
        if not isinstance(body, dict):
            raise ValueError(
                "the request's body is no JSON object; it is that of a chat completion"
            )
        name, named = _name(body, headers)
        stream, usage = _streaming(body)
        on_unsure = self._unsure(body.get(ON_UNSURE) or headers.get("x-surelocal-on-unsure"))
        most = _most(body.get(MOST_USD, headers.get("x-surelocal-max-escalation-usd")))
        fields = self._fields(name, body, most)
        mark = digest_of(fields)
        return Asked(name, named, fields, mark, on_unsure, stream, usage)

    def _unsure(self, given: object) -> OnUnsure:
        if given is None:
            return self._on_unsure
        if given == "error":
            return "error"
        if given == "answer":
            return "answer"
        raise ValueError(f"`{ON_UNSURE}` is {given!r}; it is `error` or `answer`")

    def _fields(self, name: str, body: dict[str, Any], most: str | None) -> dict[str, Any]:
        plain = {key: value for key, value in body.items() if key not in _ABOUT_THE_REPLY}
        line = {"custom_id": name, "method": "POST", "url": URL, "body": plain}
        fields = fields_of(line)
        # It is the job's own, and may be long: what is the same for all need not be in each record.
        self._refuse_other_answer(fields["body"].pop("response_format", None))
        given = plain.get("metadata") or {}
        if not isinstance(given, dict):
            raise ValueError("`body.metadata` is no object; it holds the record's fields by name")
        fields = {**{k: v for k, v in given.items() if k not in NAMES}, **fields}
        fields["messages"] = self._messages(name, fields)
        if self._sure_of_prompt:
            fields["body"] = {k: v for k, v in fields["body"].items() if k not in _SAMPLING}
        if most is not None:
            fields["body"][MOST_USD] = most
        return fields

    def _refuse_other_answer(self, asked: object) -> None:
        """What the job's `answer` is not. Text and JSON as such are promised by any, or by any
        object."""
        answer = self._job.answer
        wanted = answer_of(asked)
        if "schema" not in wanted:
            return
        given = wanted["schema"]
        if answer.json_schema is not None and (
            given in (answer.json_schema, {"type": "object"})
            or _untitled(given) == _untitled(answer.json_schema)
        ):
            return
        raise ValueError(
            "`body.response_format` is not the `answer` of the job that is served here; leave it "
            "out, or serve a job with that `answer`"
        )

    def _messages(self, name: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        given: list[dict[str, Any]] = fields["messages"]
        roles = [message["role"] for message in given]
        if self._own is None:
            return given
        if roles == ["user"]:
            return self._rendered(name, fields)
        if not self._sure_of_prompt:
            return given
        if roles == ["system", "user"]:
            own = self._rendered(name, fields)
            if own[0]["content"] == given[0]["content"]:
                return own
        raise ValueError(
            "this job's certificate is about its own prompt: send the user's text alone, as one "
            "message, or serve a job without `target_error`"
        )

    def _rendered(self, name: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        assert self._own is not None
        try:
            messages = self._own.render(Record(0, name, fields, 1)).messages
        except RecordError as error:
            raise ValueError(
                f"{error}; a request's text is `message`, its other fields are in its `metadata`"
            ) from None
        return [_plain(message, self.private) for message in messages]


def refuse_unservable(job: Job) -> None:
    """Raises `UsageError` for a job that speaks of a whole batch."""
    if job.confidence.policy == "budget":
        raise UsageError(
            "`policy: budget` divides a budget over a whole batch, and requests come one by one; "
            "serve a job with a `threshold` or a `target_error`"
        )


def _name(body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[str, bool]:
    metadata = body.get("metadata")
    own = metadata.get(RECORD_ID) if isinstance(metadata, dict) else None
    name = headers.get("x-record-id") or own
    if name is None:
        return OWN_PREFIX + uuid.uuid4().hex, False
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID or not name.isprintable():
        raise ValueError(f"the record's id must be a text of up to {LONGEST_ID} characters")
    return name, True


def _streaming(body: Mapping[str, Any]) -> tuple[bool, bool]:
    stream, options = body.get("stream"), body.get("stream_options")
    if stream not in (None, True, False):
        raise ValueError(f"`body.stream` is {stream!r}, and should be true or false")
    if options is not None and not isinstance(options, dict):
        raise ValueError("`body.stream_options` is no object")
    return bool(stream), bool((options or {}).get("include_usage"))


def _most(given: object) -> str | None:
    if given is None:
        return None
    try:
        if isinstance(given, bool):
            raise ValueError
        most = Decimal(str(given).strip())
        if not (most.is_finite() and most >= 0) or math.isinf(float(most)):
            raise ValueError
    except (InvalidOperation, ValueError):
        raise ValueError(f"`{MOST_USD}` is {given!r}; it is an amount in US dollars") from None
    return format(most.normalize(), "f")


def _plain(message: Message, private: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    plain |= {"cacheable": True} if message.cacheable else {}
    return plain | ({"own": [list(span) for span in message.own]} if private else {})


def _untitled(schema: Any) -> Any:
    """A schema without the titles that libraries put into it; a property may be called so."""
    if isinstance(schema, dict):
        return {
            key: _untitled(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_untitled(one) for one in schema] if isinstance(schema, list) else schema
