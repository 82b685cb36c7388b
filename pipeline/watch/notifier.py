"""Delivery of alerts to a command or a webhook. A failed delivery is retried, so each alert arrives at least once."""

import http.client
import json
import os
import re
import shlex
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
    """Delivers the alerts of a folder at least once. Deliveries are recorded in the lake, so that the next watch of the
    folder delivers only what this watch could not.

    A watch killed between a delivery and its record delivers the alert again, with the same `id`.
    """

    def __init__(self, lake: Lake, folder: Path, write_line: Callable[[str], object], target: str | None) -> None:
        self.any_attempted = False
        """True once there was an alert to deliver, whether or not the delivery succeeded."""
        self._lake, self._write_line, self._target = lake, write_line, target
        self._undelivered = list_undelivered(lake, folder)
        self._problem: str | None = None
        """Problem of the last delivery; None if it succeeded. A problem that stays the same is printed only once."""

    def deliver(self, alert: Alert) -> None:
        """Print the alert and send it; if the delivery fails, queue the alert for `retry_undelivered`."""
        self._write_line(str(alert))
        self._problem = self._send_and_record(alert)
        if self._problem:
            self._write_line(f"alert not delivered: {self._problem}")
            self._undelivered.append(alert)

    def retry_undelivered(self) -> None:
        """Send the queued alerts again, in order, until the first delivery that fails.

        A dead webhook thus costs one time-out per poll, and its problem is printed once.
        """
        while self._undelivered:
            before, self._problem = self._problem, self._send_and_record(self._undelivered[0])
            if self._problem:
                if self._problem != before:
                    self._write_line(f"alert still not delivered: {self._problem}")
                return
            self._write_line(f"{self._undelivered.pop(0)}, delivered late")

    def _send_and_record(self, alert: Alert) -> str | None:
        self.any_attempted = True
        problem = send_alert(alert, self._target) if self._target else None
        if problem is None:
            record_delivery(self._lake, alert)
        return problem


def check_target(target: str) -> None:
    """Reject an invalid address, and a command whose program the shell does not find.

    Raises:
        UsageError: the target begins with http(s):// but has no host, an invalid port or invalid characters; or it is a
            command and its first word is neither a program, nor a file that can be run, nor a word of the shell.
    """
    if not URL_SCHEME.match(target):
        _check_command(target)
        return
    try:
        parts = urlsplit(target)
        good = bool(parts.hostname) and parts.port != 0 and re.fullmatch("[!-~]+", target)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--on-alert {target!r}", "invalid address", "Write https://host:port/path, or a command")


def _check_command(command: str) -> None:
    try:
        words = [word for word in shlex.split(command) if "=" not in word]
    except ValueError:  # quotes that only the shell understands
        return
    if not words or re.search(r"[^\w./+-]", words[0]):
        return
    found = subprocess.run(["sh", "-c", 'command -v -- "$1" >/dev/null', "sh", words[0]], check=False)
    if found.returncode:
        do = "Write the path of a program that can be run, such as ./stop.sh, or an http(s) address"
        raise UsageError(f"--on-alert {command!r}", f"the shell does not find {words[0]}", do)


def send_alert(alert: Alert, target: str) -> str | None:
    """Run the command with the alert as JSON in SHAPELAKE_ALERT, or post it to an http(s) address.

    Returns:
        The problem, or None after success. Nothing is raised: a failed delivery must not stop the watch.
    """
    body = json.dumps(alert._asdict())
    return _post(target, body) if URL_SCHEME.match(target) else _run(target, body)


def _run(command: str, body: str) -> str | None:
    """Run the command in its own process group, so that a time-out kills its children too."""
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
        return f"{address} did not accept the alert: {error!r}"
