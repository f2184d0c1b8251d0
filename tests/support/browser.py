"""Drive headless Chromium over its DevTools pipe, and read what a page logged, requested and displays.

No driver is needed: Chromium reads commands from descriptor 3 and writes answers and events to 4, as JSON that a zero
byte ends.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

PROGRAM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--mute-audio", "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT_S = 60


class Page:
    """One tab of the browser; `events` are those received so far."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, parameters, self._session)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def open(self, url: str) -> None:
        """Load `url` and wait until all of it is loaded."""
        failed = self("Page.navigate", url=url).get("errorText")
        assert not failed, failed
        self._browser.read_until(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events))

    def set_screen(self, width: int, *, scheme: str = "light", media: str = "") -> None:
        """Display the page as on a screen of that width in CSS pixels, with a light or dark colour scheme."""
        phone = width < 500
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=phone)
        self(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it gives."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, top: int = 0, height: int | None = None) -> None:
        """Write a PNG of the page, or of the part from `top` on with that height."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1,
        }  # fmt: skip
        shot = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self) -> bytes:
        """Return the printed page."""
        return base64.b64decode(self("Page.printToPDF", printBackground=True)["data"])

    @property
    def errors(self) -> list[str]:
        """Return errors and warnings of the console, uncaught exceptions, and failed requests."""
        errors = []
        for event in self.events:
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                errors.append(json.dumps(parameters["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                errors.append(json.dumps(parameters["args"]))
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                errors.append(parameters["entry"]["text"])
            if event["method"] == "Network.loadingFailed":
                errors.append(parameters["errorText"])
        return errors

    @property
    def requests(self) -> list[str]:
        """Return every URL that was requested, without data URIs."""
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


class Browser:
    """A Chromium process with its own profile."""

    def __init__(self, program: str, profile: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._number, self._rest = 0, b""
        commands, self._to = os.pipe()
        self._from, events = os.pipe()
        line = f'exec "$0" "$@" 3<&{commands} 4>&{events}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, events),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(events)

    def page(self) -> Page:
        """Open a new tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        return Page(self, self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        self.read_until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def read_until(self, holds: Callable[[], bool]) -> None:
        """Read answers and events until `holds()` is true."""
        end = time.monotonic() + TIMEOUT_S
        while not holds():
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, "Chromium has closed" if ready else f"Chromium did not answer within {TIMEOUT_S} s"
            *whole, self._rest = (self._rest + data).split(b"\0")
            for message in map(json.loads, whole):
                if "id" in message:
                    self._answers[message["id"]] = message
                else:
                    self.events.append(message)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close", {})
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium; without it the tests are skipped, or fail when XMODAL_REQUIRE_CHROMIUM=1."""
    program = next((path for name in PROGRAM_NAMES if (path := shutil.which(name))), None)
    if program is None:
        if os.environ.get("XMODAL_REQUIRE_CHROMIUM") == "1":
            pytest.fail("XMODAL_REQUIRE_CHROMIUM=1, but there is no Chromium: apt-get install chromium")
        pytest.skip("no Chromium: apt-get install chromium")
    with TemporaryDirectory(prefix="xmodal-chromium-", ignore_cleanup_errors=True) as profile:
        opened = Browser(program, profile)
        yield opened
        opened.close()
