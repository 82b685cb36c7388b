"""A headless Chromium, spoken to over the pipe of its own debugging protocol: no driver, no port, no package."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name resolves: what a page asks of any host fails
)


def executable() -> str | None:
    return shutil.which("chromium")


class Chromium:
    """A browser with one page. `complaints` is all that went wrong in it, `asked` every address that it asked for."""

    def __init__(self, profile: Path) -> None:
        to_browser, from_browser = os.pipe(), os.pipe()
        # The protocol is on descriptors 3 and 4 of the browser.
        command = [executable() or "chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        line = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", line, "bash", str(to_browser[0]), str(from_browser[1]), *command],
            pass_fds=(to_browser[0], from_browser[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        self._out, self._in = os.fdopen(to_browser[1], "wb"), os.fdopen(from_browser[0], "rb")
        self._count, self._session, self._buffer = 0, None, b""
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Network.setCacheDisabled", cacheDisabled=True)
        self.send("Performance.enable", timeDomain="threadTicks")

    def close(self) -> None:
        self._session = None
        self.send("Browser.close")
        self._process.wait(20)
        self._out.close()
        self._in.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command; what happens meanwhile is noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while (answer := self._receive()).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, address: str, width: int, height: int = 900, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )
        self.size(width, height)
        self.complaints.clear()
        self.asked.clear()
        self.send("Page.navigate", url=address)
        while (event := self._receive()).get("method") != "Page.loadEventFired":
            self._note(event)

    def size(self, width: int, height: int = 900) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, waited for where it is a promise."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """The value of an expression as soon as it is true."""
        polled = f"""new Promise((done, fail) => {{
            const end = Date.now() + {seconds * 1000};
            const late = () => (Date.now() > end ? fail('waited') : setTimeout(ask, 20));
            const ask = () => {{ const value = {script}; value ? done(value) : late(); }};
            ask(); }})"""
        return self.run(polled)

    def busy(self) -> float:
        """Processor seconds that the page's main thread has worked: what others do on this machine does not count."""
        metrics = self.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def press(self, key: str, code: int) -> None:
        """One key, as a person presses it."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: Path, whole: bool = True) -> Path:
        """A screenshot, of the whole page or of what is seen of it."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._in.fileno(), 1 << 20)
            assert more, "the browser has gone"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str([one.get("value", one.get("description")) for one in params["args"]]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"].get("exception", params)))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
