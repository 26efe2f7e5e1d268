"""A stand-in of the closed APIs, for tests: real TCP, real HTTP, an exact bill, faults on demand.

It imports nothing of the product, so that a mistake in the product's prices, counting or retries
cannot hide behind the same mistake here.

    with StandIn(tmp_path, oracle={"my card": {"intent": "card_arrival"}}) as api:
        api.faults.push("rst_after")
        ...                                   # AsyncAnthropic(base_url=api.url, api_key="k", ...)
        api.wait_idle()
        assert api.bill.total_usd() == ...

Batches of both APIs, under the settings of `api.batches`:

        api.batch_seconds = 60                # how long one takes; 0, or `api.batches.polls` looks
        api.batch_parts.push("expired")       # fates of parts; also `by(choice)`, `mix(seed, rate)`
        api.batches.push("expire")            # of the next batch as a whole; or "fail"
        api.batches.list_lag_calls = 2        # lists that do not show a new batch yet
        api.faults.push("rst_after", endpoint="batch_create")
        api.faults.push("missing_row", endpoint="batch_results")       # or "file_content"
        api.bill.requests("batch")            # one entry for each part; "chat_batch" of OpenAI's

    wire.py     HTTP/1.1 on asyncio streams, and the ways a reply can go wrong on the wire
    faults.py   which fault meets which request
    limits.py   rate limits, kept and told, where a test sets `api.limits`
    bill.py     what was asked and what it cost, in a file that outlives every process
    claude.py   POST /v1/messages and /v1/messages/count_tokens
    chat.py     POST /v1/chat/completions, and the same as Gemini has it
    batching.py, fates.py    how long a batch takes, and what its parts come to
    batches.py  /v1/messages/batches
    chat_batches.py, files.py    OpenAI's /v1/batches and /v1/files
    rows.py, json_text.py    a batch's results, and the bytes of its parts
    tokens.py, cache.py, schema.py     counting, the prompt cache, structured output
    server.py   the server; a further API is one more file with a `route` and an `error`
"""

from .batching import Batching
from .bill import Bill, Request, price_usd
from .chat import Chat, Gemini
from .claude import Claude
from .fates import FATES, Fates
from .faults import FAULTS, ROW_FAULTS, STEADY, STEADY_BATCH, Fault, Faults
from .limits import Limits
from .server import StandIn

__all__ = [
    "FATES",
    "FAULTS",
    "ROW_FAULTS",
    "STEADY",
    "STEADY_BATCH",
    "Batching",
    "Bill",
    "Chat",
    "Claude",
    "Fates",
    "Fault",
    "Faults",
    "Gemini",
    "Limits",
    "Request",
    "StandIn",
    "price_usd",
]
