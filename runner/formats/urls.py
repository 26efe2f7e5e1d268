"""Removes secrets from addresses: a login is used for requests, but never shown or stored.

The job in memory has the whole address. `showable` is for addresses that are stored or shown, and
`hidden` for messages of SDKs and servers that may contain one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote
from urllib.request import getproxies

# Up to the last @ before the path. A password with an unescaped / or ? extends further: then the
# text after the host's colon is not a port.
_LOGIN = re.compile(r"^([A-Za-z][\w+.-]*:)?//(?:[^/?#]*@|[^/?#:@]*:(?!\d*(?:[/?#]|$))[^@]*@)+")
_SECRET = re.compile(
    r"([?&;][^=&;#]*(?:key|token|secret|passw|pwd|auth|signature|sig)[^=&;#]*=)[^&;#]+", re.I
)
_SHORTEST = 3  # a shorter text also occurs in other words


def showable(url: str) -> str:
    """The address without its login and without the values of possibly secret settings."""
    return _SECRET.sub(r"\1***", _LOGIN.sub(lambda found: f"{found[1] or ''}//", url))


def has_login(url: str | None) -> bool:
    """Whether the address has secrets that must not be stored."""
    return url is not None and showable(url) != url


def hidden(text: str, url: str | None) -> str:
    """A foreign message, without the secrets of this address or of the machine's proxies."""
    for address in (url, *getproxies().values()):
        for secret in sorted(_secrets(address or ""), key=len, reverse=True):
            text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> Iterator[str]:
    for found in _SECRET.finditer(url):
        value = url[found.end(1) : found.end()]
        yield from (one for one in (value, unquote(value)) if len(one) >= _SHORTEST)
    login = _LOGIN.match(url)
    if login is None:
        return
    whole = login[0].partition("//")[2].rpartition("@")[0]
    name, _, password = whole.partition(":")
    plain = f"{unquote(name)}:{unquote(password)}"
    yield base64.b64encode(plain.encode("utf-8", "replace")).decode()
    # A user name without a password is a token, so it is secret; with a password it is not.
    for secret in (whole, plain, password or name, unquote(password or name)):
        if len(secret) >= _SHORTEST:
            yield secret
