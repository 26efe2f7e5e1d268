"""A provider's batches through its own SDK: what is the same whoever made it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from typing import Any, ClassVar

from escalation.providers.batch_calls import Calls, Response
from escalation.providers.batch_listing import Search
from escalation.providers.batch_protocol import UPLOAD_S, Found, Lost, Remote
from escalation.providers.protocol import Key, Reply
from escalation.providers.sdk_calls import Sdk
from runner.job import Escalation

PAGE = 100
CONNECTIONS = 4
UNREAD = Reply("unknown", problem="its result in the batch is none")


class SdkBatches(ABC):
    """``after``: the list's argument for what comes behind an entry. Of a batch that is not found
    by a mark, ``_names`` keeps some parts' names."""

    sdk: ClassVar[Sdk]
    after: ClassVar[str]

    def __init__(self, escalation: Escalation) -> None:
        address, self._timeout = escalation.address, escalation.timeout_s
        self._key = Key(escalation.api_key_env, address)
        self._client = self.sdk.connect(address, self._key, self._timeout, CONNECTIONS)
        self._raw = self._batches(self._client)
        self._calls = Calls(self._key, self.sdk.failed, self._timeout)
        self._upload_s = max(self._timeout, UPLOAD_S)
        self._names: dict[str, list[str]] = {}

    @abstractmethod
    def _batches(self, client: Any) -> Any:
        """The client's calls about batches, whose replies' bodies are still to be read."""

    @abstractmethod
    async def _judge(self, batch_id: str, entry: Mapping[str, Any], prefix: str) -> Found:
        """Whether an entry of the list is the batch whose parts' names begin so."""

    @abstractmethod
    def _made_at(self, entry: Mapping[str, Any]) -> float | None:
        """The time of an entry of the list; None where it says none."""

    @abstractmethod
    def _open(self, batch_id: str, file: str) -> AbstractAsyncContextManager[Response]:
        """A file of a batch's results."""

    @abstractmethod
    def _reply(self, row: Mapping[str, Any]) -> Reply:
        """What a row of such a file says."""

    async def find(self, lost: Lost) -> Found:
        async def page(after: str | None) -> Mapping[str, Any]:
            behind: dict[str, Any] = {} if after is None else {self.after: after}
            return await self._calls.ask(lambda: self._raw.list(limit=PAGE, **behind))

        async def judge(batch_id: str, entry: Mapping[str, Any]) -> Found:
            return await self._judge(batch_id, entry, lost.prefix)

        return await Search(lost, page, judge, self._made_at).found()

    async def results(self, remote: Remote) -> AsyncGenerator[tuple[str, Reply]]:
        for file in remote.files:
            opened = self._calls.rows(partial(self._open, remote.id, file))
            async with aclosing(opened) as rows:
                async for name, row in rows:
                    yield name, self._reply(row)

    async def cancel(self, batch_id: str) -> None:
        await self._calls.tell(lambda: self._raw.cancel(batch_id))

    async def aclose(self) -> None:
        await self._client.close()
