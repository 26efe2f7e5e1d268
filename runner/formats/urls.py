"""Addresses as they may be shown: a login in one works for its requests, and stands nowhere else.

The whole address is the job's, in memory. Whatever is written down or said goes by `showable`, and
what others say of an address, an SDK or a server, by `hidden`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote
from urllib.request import getproxies

# Up to the last @ before the path. A password with a bare / or ? in it reaches further: then what
# stands behind the host's colon is no port.
_LOGIN = re.compile(r"^([A-Za-z][\w+.-]*:)?//(?:[^/?#]*@|[^/?#:@]*:(?!\d*(?:[/?#]|$))[^@]*@)+")
_SECRET = re.compile(
    r"([?&;][^=&;#]*(?:key|token|secret|passw|pwd|auth|signature|sig)[^=&;#]*=)[^&;#]+", re.I
)
_SHORTEST = 3  # a shorter text is in other words too


def showable(url: str) -> str:
    """The address without a login, and without the values of settings that may be secret."""
    return _SECRET.sub(r"\1***", _LOGIN.sub(lambda found: f"{found[1] or ''}//", url))


def has_login(url: str | None) -> bool:
    """Whether less of it may be written down than a request needs."""
    return url is not None and showable(url) != url


def hidden(text: str, url: str | None) -> str:
    """What others say, without the login of this address or of a proxy of this machine's."""
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
    # A name alone is a token; beside a password it is none.
    for secret in (whole, plain, password or name, unquote(password or name)):
        if len(secret) >= _SHORTEST:
            yield secret
