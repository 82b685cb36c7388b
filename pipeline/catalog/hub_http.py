"""HTTP layer for the Hugging Face Hub: timeouts, one retry policy, and translation of errors.

huggingface_hub waits without a limit in some calls, and retries only some calls. The HTTP client installed here sets a
timeout on every request and turns every transient failure into TransientError, which the retries of huggingface_hub do
not catch, so that `call_with_retries` is the only retry policy. There is one exception: huggingface_hub itself resumes
the body of a download after a broken connection.
"""

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

import httpx2
from huggingface_hub import constants, errors, get_token, set_client_factory
from huggingface_hub.utils import disable_progress_bars, logging
from tenacity import RetryCallState, Retrying, retry_if_exception

from pipeline.catalog.hub_limits import RATE_LIMIT
from pipeline.errors import FetchError, NotFoundError, ShapelakeError, UsageError
from pipeline.progress import Progress

__all__ = ["TransientError", "call_with_retries", "last_response_path", "to_shapelake_error", "wait_silently"]

TIMEOUT_S = 30.0
"""Seconds without a received byte after which a request fails; downloads use HF_HUB_DOWNLOAD_TIMEOUT instead."""
MAX_ATTEMPTS = 5
MAX_TOTAL_WAIT_S = 900.0
"""Limit in seconds on all waits between the attempts of one call; the call fails before a wait that exceeds it. It is
three windows of the Hub's rate limit (300 s each)."""
FIRST_WAIT_S = 1.0
TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
LIBRARY_ERRORS = (
    *(httpx2.HTTPError, json.JSONDecodeError, errors.HFValidationError),
    *(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.XetDownloadError),
)
"""Errors of huggingface_hub and its HTTP transport that the network, the Hub or the input can cause."""

ERROR_MESSAGES: tuple[tuple[type[Exception], str, str], ...] = (
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and the answer is not cached", "Unset HF_HUB_OFFLINE"),
    (errors.GatedRepoError, "it is gated, and access is not granted", "Accept its terms on the Hub, and set HF_TOKEN"),
    (errors.RepositoryNotFoundError, "no such repository, or it is private", "Check the spelling, or set HF_TOKEN"),
    (errors.RevisionNotFoundError, "no such revision", "Give a branch, a tag or a commit of the repository"),
    (errors.RemoteEntryNotFoundError, "no such file", "Give a file of that revision"),
    (errors.HFValidationError, "not a valid repository id", "Write it as OWNER/NAME"),
)
"""(error class, `found`, `do`) of the message for each permanent failure; the first row whose class matches applies."""

RUN_AGAIN = "Run again once the Hub responds (https://status.huggingface.co)"
ABSENT_ERRORS = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)

T = TypeVar("T")
_LOCAL = threading.local()
_JITTER = random.Random()


class TransientError(Exception):
    """Failure that a retry can resolve.

    Args:
        found: what the Hub did, as the end of a sentence that begins with "the Hub", such as `answered 503`.
        wait_s: seconds that the Hub asks to wait before the next attempt; None if it states no time.
    """

    def __init__(self, found: str, wait_s: float | None = None) -> None:
        super().__init__(found)
        self.found, self.wait_s = found, wait_s


def call_with_retries(asked: str, call: Callable[[], T]) -> T:
    """Return the result of `call`, after at most MAX_ATTEMPTS attempts and MAX_TOTAL_WAIT_S seconds of waits.

    A wait lasts as long as the Hub requests in `Retry-After` or `RateLimit`. If it requests nothing, the wait is an
    exponential back-off that starts at FIRST_WAIT_S. Both have jitter.

    Args:
        asked: description of the request for the error message.

    Raises:
        FetchError: the Hub sent no answer or an incomplete one; a later call can succeed.
        UsageError: the repository or revision does not exist, access is denied, or HF_HUB_OFFLINE is set.
    """
    _prepare()
    _require_usable_token()
    retrying = Retrying(retry=retry_if_exception(_is_transient), wait=_wait_s, stop=_stop, sleep=_sleep, reraise=True)
    try:
        return retrying(call)
    except (TransientError, *LIBRARY_ERRORS) as error:
        raise to_shapelake_error(asked, error) from error


def to_shapelake_error(asked: str, error: BaseException) -> ShapelakeError:
    """Return the error to raise for one of huggingface_hub or its transport.

    It is a FetchError if a later call can succeed, else a UsageError.
    """
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return to_shapelake_error(asked, error.__cause__)
    for kind, found, do in ERROR_MESSAGES:
        if isinstance(error, kind):
            return NotFoundError(asked, found, do) if kind in ABSENT_ERRORS else UsageError(asked, found, do)
    if isinstance(error, errors.HfHubHTTPError):
        return _error_for_status(asked, error.response.status_code)
    if isinstance(error, TransientError):
        wait = f" and asks to wait {error.wait_s:,.0f} s" if error.wait_s else ""
        do = f"Run again in {error.wait_s:,.0f} s" if error.wait_s else RUN_AGAIN
        return FetchError(asked, f"the Hub {error.found}{wait}, after at most {MAX_ATTEMPTS} attempts", do)
    # The transport's message is not quoted: for a malformed header it contains the value, which may be the token.
    return FetchError(asked, f"no complete answer ({type(error).__name__})", "Check the network and HF_ENDPOINT")


def last_response_path() -> str:
    """Return the URL path of this thread's last response, after redirects: the canonical path."""
    return _LOCAL.path


def wait_silently(stop: threading.Event) -> None:
    """Make the waits of this thread show no progress display, and end with an error once `stop` is set."""
    _LOCAL.stop = stop


def _is_transient(error: BaseException) -> bool:
    # Of a download's connection errors only ReadError is retried here; the library itself resumes after the others.
    return isinstance(error, TransientError | httpx2.ReadError | json.JSONDecodeError | errors.XetDownloadError)


def _error_for_status(asked: str, status: int) -> ShapelakeError:
    if status in TRANSIENT_STATUSES:
        return FetchError(asked, f"the Hub answered {status}", RUN_AGAIN)
    if status in (401, 403):
        return UsageError(asked, f"the Hub denied access ({status})", "Set HF_TOKEN to a token with read access")
    return UsageError(asked, f"the Hub answered {status}", "Check the repository id and HF_ENDPOINT")


@cache
def _prepare() -> None:
    """Configure huggingface_hub once per process: use our HTTP client; turn off telemetry, progress bars and log
    output.

    Xet is disabled unless HF_HUB_DISABLE_XET enables it: stalls are detected only over plain HTTP, and the xet cache
    uses disk space outside the budget.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_XET = os.environ.get("HF_HUB_DISABLE_XET", "1").upper() in constants.ENV_VARS_TRUE_VALUES
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings quote signed URLs
    set_client_factory(lambda: _Client(event_hooks={"request": [_limit_request]}, follow_redirects=True, timeout=None))


class _Client(httpx2.Client):
    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = super().send(request, stream=stream, **options)
        except httpx2.TransportError as error:
            if stream:  # a download, which the library resumes
                raise
            raise TransientError(f"sent no complete answer ({type(error).__name__})") from error
        RATE_LIMIT.record_answer(response.headers)
        if response.status_code in TRANSIENT_STATUSES:
            response.close()
            wait_s = _retry_after_s(response)
            if response.status_code == 429 and wait_s and not stream:  # downloads have a separate limit
                RATE_LIMIT.record_wait(wait_s)
            raise TransientError(f"answered {response.status_code}", wait_s)
        _LOCAL.path = response.url.path
        return response


def _limit_request(request: httpx2.Request) -> None:
    """Set a timeout on the request, and remove the token unless the request goes to the endpoint."""
    if constants.is_offline_mode():
        raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    limits = request.extensions.setdefault("timeout", {})
    for step in ("connect", "read", "write", "pool"):
        limits[step] = limits.get(step) or TIMEOUT_S
    url, endpoint = request.url, httpx2.URL(constants.ENDPOINT)
    if (url.scheme, url.host, url.port) != (endpoint.scheme, endpoint.host, endpoint.port):
        request.headers.pop("Authorization", None)


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Return the seconds that an answer asks to wait; None if it states no time.

    They are taken from `Retry-After` (a number or a date) or, for status 429, from the end of the window in
    `RateLimit`.
    """
    after = response.headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    try:
        return max((parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        window = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", "")) if response.status_code == 429 else None
        return float(window[1]) if window else None


def _stop(state: RetryCallState) -> bool:
    return state.attempt_number >= MAX_ATTEMPTS or state.idle_for + state.upcoming_sleep > MAX_TOTAL_WAIT_S


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and error.wait_s is not None:
        return error.wait_s + _JITTER.uniform(0.0, 0.5) * FIRST_WAIT_S
    return FIRST_WAIT_S * 2 ** (state.attempt_number - 1) * _JITTER.uniform(0.5, 1.5)


def _sleep(seconds: float) -> None:
    """Sleep with a progress display, or without one in a thread that called `wait_silently`."""
    if stop := getattr(_LOCAL, "stop", None):
        if stop.wait(seconds):
            raise TransientError("was not retried, because another request failed")
        return
    end = time.monotonic() + seconds
    with Progress("Waiting for the Hub", round(seconds), "s") as progress:
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            progress.advance(1)


def _require_usable_token() -> None:
    # The transport would quote a token with control or non-ASCII characters in its error message.
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise UsageError("HF_TOKEN", "the token has control or non-ASCII characters", "Copy the token again")
