"""A stand-in of the closed APIs, for tests: real TCP, real HTTP, an exact bill, faults on demand.

It imports nothing of the product, so that a mistake in the product's prices, counting or retries
cannot hide behind the same mistake here.

    with StandIn(tmp_path, oracle={"my card": {"intent": "card_arrival"}}) as api:
        api.faults.push("rst_after")
        ...                                   # AsyncAnthropic(base_url=api.url, api_key="k", ...)
        api.wait_idle()
        assert api.bill.total_usd() == ...

    wire.py     HTTP/1.1 on asyncio streams, and the ways a reply can go wrong on the wire
    faults.py   which fault meets which request
    limits.py   rate limits, kept and told, where a test sets `api.limits`
    bill.py     what was asked and what it cost, in a file that outlives every process
    claude.py   POST /v1/messages and /v1/messages/count_tokens
    chat.py     POST /v1/chat/completions, and the same as Gemini has it
    tokens.py, cache.py, schema.py     counting, the prompt cache, structured output
    server.py   the server; a further API is one more file with a `route` and an `error`
"""

from .bill import Bill, Request, price_usd
from .chat import Chat, Gemini
from .claude import Claude
from .faults import FAULTS, STEADY, Fault, Faults
from .limits import Limits
from .server import StandIn

__all__ = [
    "FAULTS",
    "STEADY",
    "Bill",
    "Chat",
    "Claude",
    "Fault",
    "Faults",
    "Gemini",
    "Limits",
    "Request",
    "StandIn",
    "price_usd",
]
