"""A headless Chromium by the WebDriver protocol, of which this is all that the tests need: JSON over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver, section 12
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class BrowserError(AssertionError):
    pass


class Browser:
    """One browser with tabs; what is asked of it is asked of the tab that was opened or chosen last."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,900"]
        options = {
            "args": [*arguments, "--disable-background-networking", "--no-first-run"],
            "binary": next(filter(None, map(shutil.which, _NAMES)), ""),
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._driver + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with _DIRECT.open(request, timeout=30) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise BrowserError(json.load(error)["value"]["message"]) from None

    def quit(self) -> None:
        self._send("DELETE", self._session)

    async def _ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        body = {} if body is None and method == "POST" else body
        return await asyncio.to_thread(self._send, method, self._session + path, body)

    async def open(self, url: str) -> str:
        """In a new tab; gives the tab."""
        tab: str = (await self._ask("/window/new", {"type": "tab"}))["handle"]
        await self.choose(tab)
        await self._ask("/url", {"url": url})
        return tab

    async def tab(self) -> str:
        """The chosen one."""
        tab: str = await self._ask("/window", method="GET")
        return tab

    async def choose(self, tab: str) -> None:
        await self._ask("/window", {"handle": tab})

    async def close_others(self) -> None:
        """All tabs but the one from its start."""
        first, *others = await self._ask("/window/handles", method="GET")
        for tab in others:
            await self.choose(tab)
            await self._ask("/window", method="DELETE")
        await self.choose(first)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page, and gives what it returns or what its promise comes to."""
        return await self._ask("/execute/sync", {"script": script, "args": list(arguments)})

    async def until(self, condition: str, timeout: float = 5) -> None:
        """Waits until the expression is true in the page."""
        script = f"""
            const end = performance.now() + arguments[0] * 1000;
            return new Promise((settle) => {{
                (function look() {{
                    if ({condition}) settle(true);
                    else if (performance.now() > end) settle(false);
                    else setTimeout(look, 10);
                }})();
            }});"""
        if not await self.run(script, timeout):
            text = await self.run("return document.body.innerText")
            raise BrowserError(f"not within {timeout} s: {condition}\nthe page says:\n{text}")

    async def _find(self, selector: str) -> str:
        found = await self._ask("/element", {"using": "css selector", "value": selector})
        element: str = found[_ELEMENT]
        return element

    async def click(self, selector: str) -> None:
        await self._ask(f"/element/{await self._find(selector)}/click")

    async def type(self, selector: str, text: str) -> None:
        """Instead of what is in the field."""
        element = await self._find(selector)
        await self._ask(f"/element/{element}/clear")
        await self._ask(f"/element/{element}/value", {"text": text})

    async def press(self, *keys: str) -> None:
        """Keys on whatever has the focus, one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    async def text(self, selector: str) -> str:
        text: str = await self._ask(f"/element/{await self._find(selector)}/text", method="GET")
        return text

    async def complaints(self) -> list[str]:
        """What stood in the console since the last call."""
        entries = await self._ask("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    async def devtools(self, command: str, **parameters: Any) -> Any:
        return await self._ask("/goog/cdp/execute", {"cmd": command, "params": parameters})

    async def screenshot(self, *, width: int, dark: bool) -> bytes:
        """Of the whole page, when nothing moves any more."""
        await self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        await self.run(
            "return Promise.allSettled(document.getAnimations().map((it) => it.finished)).then(() => null)"
        )
        taken = await self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, and its driver; both have ended afterwards."""
    driver = shutil.which("chromedriver")
    assert driver, "chromedriver is missing: tests/install-servers.sh installs it"
    process = subprocess.Popen(
        [driver, "--port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = next(
            found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line))
        )
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.quit()
    finally:
        # The session of its own holds the browser, too, should it not have quit.
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=10)
