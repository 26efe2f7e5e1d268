"""HTTP requests that are ours alone: nothing that a server said before changes the next one.

A redirect would take a record to another host. A cookie would go out with every later request, of
whichever record, and one that no request can carry would break them all.
"""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any


def own_requests() -> dict[str, Any]:
    """Settings of an HTTP client."""
    return {
        "follow_redirects": False,
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),
    }
