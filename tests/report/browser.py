"""Opens a page in headless Chromium over the DevTools protocol and tells what the browser saw.

The protocol runs through two pipes (``--remote-debugging-pipe``: JSON, each message ended by a zero byte), so that no
port is opened and no package is needed. Source: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 60.0


def find_browser() -> str | None:
    """The first of the known browsers that is on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """A page that was opened.

    Attributes:
        errors: console errors, uncaught exceptions, refused content, in the browser's words.
        requests: addresses that were asked for, but for the page's own and ``data:``.
    """

    _browser: Browser
    _session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the protocol on this page."""
        return self._browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Saves what is seen as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """A running headless browser; use :func:`browser`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def wait(self, method: str, session: str) -> None:
        """Waits for an event, which may have come already."""
        while not any(e.get("method") == method and e.get("sessionId") == session for e in self._events):
            self._events.append(self._read())

    def events(self, session: str) -> list[dict[str, Any]]:
        """All events of a page so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + ANSWER_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            received = os.read(self._from, 1 << 20)
            assert received, "the browser ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(
        self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True
    ) -> Page:
        """Opens a file at a width and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not script)
        address = path.resolve().as_uri()
        page.call("Page.navigate", url=address)
        self.wait("Page.loadEventFired", session)
        if script:
            page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        for event in self.events(session):
            _note(event, page, address)
        return page


def _note(event: dict[str, Any], page: Page, address: str) -> None:
    parameters = event["params"]
    match event["method"]:
        case "Runtime.exceptionThrown":
            page.errors.append(json.dumps(parameters["exceptionDetails"]))
        case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
            page.errors.append(json.dumps(parameters["args"]))
        case "Log.entryAdded" if parameters["entry"]["level"] == "error":
            page.errors.append(parameters["entry"]["text"])
        case "Network.requestWillBeSent":
            asked = parameters["request"]["url"]
            if asked != address and not asked.startswith("data:"):
                page.requests.append(asked)


@contextmanager
def browser(command: str) -> Iterator[Browser]:
    """Starts a headless browser with a profile of its own, and ends it."""
    browser_reads, to_browser = os.pipe()
    from_browser, browser_writes = os.pipe()
    with tempfile.TemporaryDirectory(prefix="safe-browser-", ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and answers on 4. Without a sandbox: CI runs as root in a container.
        arguments = [
            command, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        pipes = [fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (browser_reads, browser_writes)]
        actions = [(os.POSIX_SPAWN_DUP2, pipe, number) for number, pipe in zip((3, 4), pipes, strict=True)]
        silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
        process = os.posix_spawn(command, arguments, os.environ, file_actions=[*actions, *silent])
        for pipe in (browser_reads, browser_writes, *pipes):
            os.close(pipe)
        try:
            yield Browser(to_browser, from_browser)
        finally:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
            os.close(to_browser)
            os.close(from_browser)
