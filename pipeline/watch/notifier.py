"""Passing alerts on, to a command or to a webhook: one that nobody took is owed, and is tried again."""

import http.client
import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.watch.alerts import Alert, list_undelivered, record_delivery

DELIVERY_TIMEOUT_S = 60.0
URL_SCHEME = re.compile("https?://", re.IGNORECASE)


class Notifier:
    """Tells each alert of a folder until it was taken; the lake keeps which were, for the watch after this one.

    A watch that is killed after an alert was taken and before that is recorded tells it twice, with the same `id`.
    """

    def __init__(self, lake: Lake, folder: Path, say: Callable[[str], object], target: str | None) -> None:
        self.any_attempted = False
        """Whether there was anything to tell."""
        self._lake, self._say, self._target = lake, say, target
        self._undelivered = list_undelivered(lake, folder)
        self._problem: str | None = None
        """The last one said."""

    def deliver(self, alert: Alert) -> None:
        """Say it and pass it on; it is owed if nobody takes it."""
        self._say(str(alert))
        self._problem = self._send_and_record(alert)
        if self._problem:
            self._say(f"alert not passed on: {self._problem}")
            self._undelivered.append(alert)

    def retry_undelivered(self) -> None:
        """Try again, until one is not taken: a dead webhook costs one wait a look, and the same problem one line."""
        while self._undelivered:
            before, self._problem = self._problem, self._send_and_record(self._undelivered[0])
            if self._problem:
                if self._problem != before:
                    self._say(f"alert still not passed on: {self._problem}")
                return
            self._say(f"{self._undelivered.pop(0)}, told late")

    def _send_and_record(self, alert: Alert) -> str | None:
        self.any_attempted = True
        problem = send_alert(alert, self._target) if self._target else None
        if problem is None:
            record_delivery(self._lake, alert)
        return problem


def check_target(target: str) -> None:
    """Refuse an address that no request can be sent to.

    Raises:
        UsageError: it begins with http and has no host, a port that is none, or characters that no address has.
    """
    if not URL_SCHEME.match(target):
        return
    try:
        parts = urlsplit(target)
        good = bool(parts.hostname) and parts.port != 0 and re.fullmatch("[!-~]+", target)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--on-alert {target!r}", "no address", "Write one as https://host:port/path, or a command")


def send_alert(alert: Alert, target: str) -> str | None:
    """Run the command with the alert as JSON in SHAPELAKE_ALERT, or post it to an http(s) address.

    Returns:
        What went wrong, null if nothing: a warning that cannot be passed on must not stop the watch.
    """
    body = json.dumps(alert._asdict())
    return _post(target, body) if URL_SCHEME.match(target) else _run(target, body)


def _run(command: str, body: str) -> str | None:
    """In a process group of its own, which a command that takes too long does not outlive."""
    try:
        process = subprocess.Popen(
            command, shell=True, env={**os.environ, "SHAPELAKE_ALERT": body}, start_new_session=True
        )
    except OSError as error:
        return f"{command!r} did not start: {error}"
    try:
        code = process.wait(DELIVERY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"{command!r} did not end within {DELIVERY_TIMEOUT_S:g} s"
    return f"{command!r} ended with exit code {code}" if code else None


def _post(address: str, body: str) -> str | None:
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=DELIVERY_TIMEOUT_S):
            return None
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{address} did not take it: {error!r}"
