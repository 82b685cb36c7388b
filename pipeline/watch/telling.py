"""Passing an alert on: to a command, or to a webhook."""

import json
import os
import subprocess
import urllib.error
import urllib.request

from pipeline.watch.judging import Alert

TIMEOUT_S = 60.0


def tell(alert: Alert, target: str) -> str | None:
    """Run the command with the alert as JSON in SHAPELAKE_ALERT, or post it to an http(s) address.

    Returns:
        What went wrong, null if nothing: a warning that cannot be passed on must not stop the watch.
    """
    body = json.dumps(alert._asdict())
    if target.startswith(("http://", "https://")):
        return _post(target, body)
    try:
        environment = {**os.environ, "SHAPELAKE_ALERT": body}
        done = subprocess.run(target, shell=True, env=environment, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{target!r} did not end within {TIMEOUT_S:.0f} s"
    return f"{target!r} ended with exit code {done.returncode}" if done.returncode else None


def _post(address: str, body: str) -> str | None:
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except (urllib.error.URLError, TimeoutError) as error:
        return f"{address} did not take it: {error}"
