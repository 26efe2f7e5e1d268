"""A headless Chromium for a test: spoken to over a pipe, in its own protocol, by nothing else."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from scripts.browser import environment

PATIENCE_S = 30.0
_OFFERS = ("--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
           "--hide-scrollbars", "--force-color-profile=srgb")  # fmt: skip

_AT_3_AND_4 = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
for place, fd in zip((3, 4), high):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One process. Its pipe is file descriptors 3 and 4, where it looks for it."""

    def __init__(self, executable: Path) -> None:
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        self._profile = tempfile.TemporaryDirectory(prefix="browser-")
        offers = [*_OFFERS, f"--user-data-dir={self._profile.name}", "about:blank"]
        # A process of its own puts them there: no code of ours runs between fork and exec.
        places = [sys.executable, "-S", "-E", "-c", _AT_3_AND_4, str(to_read), str(to_write)]
        self._process = subprocess.Popen(
            [*places, str(executable), *offers], pass_fds=(to_read, to_write),
            env=environment(executable.parent), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._read = b""
        self._last = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(OSError):
            self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **given: Any) -> dict[str, Any]:
        """One command and its result; what happens meanwhile goes to ``events``."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": given}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            heard = self.hear()
            if heard.get("id") == self._last:
                assert "error" not in heard, heard["error"]
                result: dict[str, Any] = heard["result"]
                return result
            self.events.append(heard)

    def hear(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._read:
            ready = select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]
            if not ready:
                raise TimeoutError(f"the browser said nothing for {PATIENCE_S:g} s")
            got = os.read(self._from, 1 << 20)
            if not got:
                raise EOFError("the browser has ended")
            self._read += got
        one, self._read = self._read.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(one)
        return heard

    @contextlib.contextmanager
    def page(self, path: Path, width: int, *, dark: bool = False) -> Iterator[Page]:
        """A file, opened in a window of that width."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=path.absolute().as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(self.hear())
        yield page
        self.call("Target.closeTarget", targetId=target)


class Page:
    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **given)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def complaints(self) -> list[str]:
        """Whatever it wrote to its console or its log, and every exception."""
        return [json.dumps(e["params"]) for e in self._heard() if e["method"] in _COMPLAINTS]

    def requests(self) -> list[str]:
        """The address of everything that it asked for, itself first."""
        asked = (e for e in self._heard() if e["method"] == "Network.requestWillBeSent")
        return [str(e["params"]["request"]["url"]) for e in asked]

    def _heard(self) -> list[dict[str, Any]]:
        return [e for e in self._browser.events if e.get("sessionId") == self._session]

    def picture(self, path: Path) -> None:
        """The whole page, top to bottom."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


_COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
