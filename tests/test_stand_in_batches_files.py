"""OpenAI's batches and files of the stand-in when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.stand_in import StandIn
from tests.test_stand_in_batches_openai import URL, lines, make, read, upload, with_openai

pytestmark = pytest.mark.process


@pytest.fixture
def api(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path) as server:
        yield server


@pytest.mark.parametrize(
    ("endpoint", "name", "kind"),
    [
        ("file_create", "rst_before", openai.APIConnectionError),
        ("file_create", "429", openai.RateLimitError),
        ("file_retrieve", "500", openai.InternalServerError),
        ("file_content", "529", openai.InternalServerError),
        ("file_content", "rst_after", openai.APIConnectionError),
        ("file_content", "cut", openai.APIConnectionError),
        ("chat_batch_create", "503", openai.InternalServerError),
        ("chat_batch_retrieve", "malformed", json.JSONDecodeError),
        ("chat_batch_list", "429_bare", openai.RateLimitError),
        ("chat_batch_cancel", "rst_after", openai.APIConnectionError),
    ],
)
def test_faults(api: StandIn, endpoint: str, name: str, kind: type[Exception]) -> None:
    api.batch_seconds = 60

    async def work(client: AsyncOpenAI) -> None:
        batch = await make(client, lines(1))
        file = batch.input_file_id
        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "file_create": lambda: upload(client, lines(1)),
            "file_retrieve": lambda: client.files.retrieve(file),
            "file_content": lambda: client.files.content(file),
            "chat_batch_create": lambda: make(client, lines(1)),
            "chat_batch_retrieve": lambda: client.batches.retrieve(batch.id),
            "chat_batch_list": lambda: client.batches.list(),
            "chat_batch_cancel": lambda: client.batches.cancel(batch.id),
        }
        api.faults.push(name, endpoint=endpoint)
        with pytest.raises(kind) as caught:
            await steps[endpoint]()
        assert type(caught.value) is kind

    with_openai(api, work)
    assert api.bill.requests(endpoint)[-1].fault == name


@pytest.mark.parametrize(
    ("name", "rows"),
    [("missing_row", 8), ("double_row", 10), ("stray_row", 10), ("cut_at_line", 4)],
)
def test_output_that_is_off(api: StandIn, name: str, rows: int) -> None:
    async def work(client: AsyncOpenAI) -> tuple[int, int]:
        batch = await client.batches.retrieve((await make(client, lines(9))).id)
        api.faults.push(name, endpoint="file_content")
        off = await read(client, batch.output_file_id)
        return len(off), len(await read(client, batch.output_file_id))

    assert with_openai(api, work) == (rows, 9)


def test_what_is_refused(api: StandIn) -> None:
    api.files.most_bytes = 2000

    async def work(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            await upload(client, lines(30))
        assert caught.value.status_code == 413
        with pytest.raises(openai.BadRequestError):
            await make(client, lines(1), metadata={"k": "v" * 513})
        for step in (client.files.retrieve, client.files.content, client.batches.retrieve):
            with pytest.raises(openai.NotFoundError):
                await step("no-such")
        file = await upload(client, lines(1))
        assert (await client.files.delete(file)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(input_file_id=file, endpoint=URL, completion_window="24h")

    async def locked(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError):
            await client.batches.list()

    with_openai(api, work)
    with_openai(api, locked, api_key="bad-key")
