"""The providers of closed models, with what is known about each before its code is loaded.

A new provider is a line of `PROVIDERS` and a file in `escalation/providers/`, which
`escalation.providers.chosen` imports when a job asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API at ``url`` and at every host below its own, and what a job need not say there:
    ``model``, and ``key``, the variable that holds its key. ``prices``: the section of
    ``prices.yaml`` that its models stand in. ``batches``: whether it takes them."""

    name: str
    url: str
    model: str
    key: str
    prices: str
    batches: bool = True

    def answers_at(self, host: str) -> bool:
        return f".{host}".rstrip(".").endswith(f".{urlsplit(self.url).hostname}")


@dataclass(frozen=True, slots=True)
class Entry:
    """``api``, ``wire`` and ``batches`` are ``module:class`` of a `Provider`, its `Wire` and its
    `BatchApi` (`escalation.providers.protocol`, ``batch_protocol``).

    The first of ``endpoints`` is the usual one. ``spoken_elsewhere``: others have the same API, so
    that its key and model go to no address but these; else any address is a gateway to it.
    ``own_server``: it runs on the user's, costs nothing and needs no key. ``rules_in_sdk``: what it
    takes of a schema only its SDK knows, and that takes seconds to import. ``more_keys``: other
    variables that a key of its may be in.
    """

    name: str
    api: str
    wire: str
    batches: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    spoken_elsewhere: bool = False
    own_server: bool = False
    rules_in_sdk: bool = False
    more_keys: tuple[str, ...] = ()

    def usual(self, base_url: object) -> dict[str, str | None]:
        """The default keys of a job's `escalation` at this address."""
        if self.own_server:
            return {"api_key_env": None}
        gateway = base_url is None or not self.spoken_elsewhere
        at = self.endpoints[0] if gateway else endpoint_at(base_url)
        return {"model": at.model, "api_key_env": at.key} if at is not None else {}


_OPENAI_API = "escalation.providers.openai:OpenAI"
_OPENAI_WIRE = "escalation.providers.openai:OpenAIWire"
_TABLE = (
    Entry(
        "anthropic",
        "escalation.providers.anthropic:Anthropic",
        "escalation.providers.anthropic:AnthropicWire",
        batches="escalation.providers.anthropic_batches:AnthropicBatches",
        endpoints=(
            Endpoint("anthropic", "https://api.anthropic.com",
                     "claude-sonnet-5-5", "ANTHROPIC_API_KEY", prices="anthropic"),
        ),
        rules_in_sdk=True,
        more_keys=("ANTHROPIC_AUTH_TOKEN",),
    ),
    Entry(
        "openai",
        _OPENAI_API,
        _OPENAI_WIRE,
        batches="escalation.providers.openai_batches:OpenAIBatches",
        endpoints=(
            Endpoint("openai", "https://api.openai.com/v1",
                     "gpt-6.1-sol", "OPENAI_API_KEY", prices="openai"),
            Endpoint("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/",
                     "gemini-3.8-flash", "GEMINI_API_KEY", prices="gemini", batches=False),
        ),
        spoken_elsewhere=True,
        more_keys=("OPENAI_ADMIN_KEY", "GOOGLE_API_KEY"),
    ),
    Entry("local", _OPENAI_API, _OPENAI_WIRE, own_server=True),
)  # fmt: skip
PROVIDERS = {entry.name: entry for entry in _TABLE}
"""The providers by the name in a job's `escalation.provider`; the first is the default."""
DEFAULT = _TABLE[0].name


def endpoint_at(base_url: object) -> Endpoint | None:
    """The endpoint at this address, or None if it is not a known one."""
    host = urlsplit(base_url).hostname if isinstance(base_url, str) else None
    known = [endpoint for entry in PROVIDERS.values() for endpoint in entry.endpoints]
    return next((each for each in known if each.answers_at(host or "")), None)


def key_variables() -> list[str]:
    """The providers' default variables for keys, in the table's order."""
    endpoints = (each for entry in PROVIDERS.values() for each in entry.endpoints)
    return list(dict.fromkeys(endpoint.key for endpoint in endpoints))


def all_key_variables() -> set[str]:
    """All variables that may hold a provider's key."""
    more = {name for entry in PROVIDERS.values() for name in entry.more_keys}
    return more.union(key_variables())
