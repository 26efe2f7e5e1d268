"""A stand-in of the closed APIs, for tests: real TCP, real HTTP, an exact bill, faults on demand.

It imports nothing of the product, so that a mistake in the product's prices, counting or retries
cannot hide behind the same mistake here.

    with StandIn(tmp_path, oracle={"my card": {"intent": "card_arrival"}}) as api:
        api.faults.push("rst_after")
        ...                                   # AsyncAnthropic(base_url=api.url, api_key="k", ...)
        api.wait_idle()
        assert api.bill.total_usd() == ...

Batches of both APIs, under the settings of `api.batches`:

        api.batches.seconds = 60              # how long one takes; 0, or `polls` looks
        api.batches.push("expire")            # of the next batch as a whole; or "fail"
        api.batches.list_lag_calls = 2        # lists that do not show a new batch yet
        api.faults.push("expired", endpoint="part")          # one of FATES, of a part
        api.faults.push("rst_after", endpoint="batch_create")
        api.faults.push("missing_row", endpoint="batch_results")       # or "file_content"
        api.bill.requests("batch")            # one entry for each part; "chat_batch" of OpenAI's

    wire.py      HTTP/1.1 on asyncio streams, and the ways a reply can go wrong on the wire
    faults.py    which fault meets which request or part
    limits.py    rate limits, kept and told, where a test sets `api.limits`
    bill.py, prices.py       what was asked and what it cost, in a file that outlives every process
    claude.py, chat.py       /v1/messages; /v1/chat/completions, and the same as Gemini has it
    batches.py, chat_batches.py, batching.py, rows.py      their batches
    shapes.py, schema.py, cache.py, answers.py     what is taken, counted and answered
    server.py    the server; api.py what an API gives it
"""

from .bill import Bill
from .faults import FATES, FAULTS, ROW_FAULTS, STEADY, STEADY_BATCH
from .limits import Limits
from .server import StandIn

__all__ = [
    "FATES", "FAULTS", "ROW_FAULTS", "STEADY", "STEADY_BATCH", "Bill", "Limits", "StandIn",
]  # fmt: skip
