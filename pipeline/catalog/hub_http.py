"""The wire to the Hugging Face Hub: time limits, one retry policy, and errors in our own words.

huggingface_hub waits for an answer for ever in some calls, retries in some and not in others. The HTTP client that it
is given here sets a time limit on every request and turns every passing failure into one exception that the library's
own retries do not know, so that `patiently` alone decides how often and how long. Only the bodies of downloads are left
to the library, which resumes them where they broke off.
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

from pipeline.errors import FetchError, NotFoundError, ShapelakeError, UsageError
from pipeline.progress import Progress

__all__ = ["TransientError", "call_with_retries", "last_response_path", "to_shapelake_error"]

TIMEOUT_S = 30.0
"""Without a byte, of a request that names no limit of its own; downloads have HF_HUB_DOWNLOAD_TIMEOUT."""
MAX_ATTEMPTS = 5
MAX_TOTAL_WAIT_S = 900.0
"""All waits of one call together: the Hub counts requests in windows of 300 s."""
FIRST_WAIT_S = 1.0
TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
LIBRARY_ERRORS = (
    httpx2.HTTPError,
    json.JSONDecodeError,
    errors.HFValidationError,
    errors.LocalEntryNotFoundError,
    errors.OfflineModeIsEnabled,
    errors.XetDownloadError,
)
"""What the library and its transport raise for reasons that lie outside this code."""

ERROR_MESSAGES: tuple[tuple[type[Exception], str, str], ...] = (
    (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and it is not in the cache", "Unset HF_HUB_OFFLINE"),
    (errors.GatedRepoError, "gated, and not granted", "Accept its terms on the Hub, and set HF_TOKEN"),
    (errors.RepositoryNotFoundError, "no such repository, or a private one", "Correct its name, or set HF_TOKEN"),
    (errors.RevisionNotFoundError, "no such revision", "Name a branch, a tag or a commit of the repository"),
    (errors.RemoteEntryNotFoundError, "no such file", "Name a file of that revision"),
    (errors.HFValidationError, "no name that a repository can have", "Write it as OWNER/NAME"),
)
"""(error, what it says, what to do) of those that do not pass; the first that fits."""

ABSENT_ERRORS = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)

T = TypeVar("T")
_LAST = threading.local()
_JITTER = random.Random()


class TransientError(Exception):
    """A failure that may be over at the next try.

    Args:
        found: what came, for people.
        wait_s: after which time the Hub wants to be asked again, where it says.
    """

    def __init__(self, found: str, wait_s: float | None = None) -> None:
        super().__init__(found)
        self.found, self.wait_s = found, wait_s


def call_with_retries(asked: str, call: Callable[[], T]) -> T:
    """The result of `call`, tried at most TRIES times with waits of at most WAITS_S seconds in all.

    A wait is what the Hub asks for in `Retry-After` or `RateLimit`, else doubles from FIRST_WAIT_S, with jitter.

    Args:
        asked: what is wanted, for the error.

    Raises:
        FetchError: no answer, or none that is whole; it may work the next time.
        UsageError: no such repository or revision, no permission, or HF_HUB_OFFLINE is set.
    """
    _prepare()
    _require_usable_token()
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        wait=_wait_s,
        stop=lambda state: (
            state.attempt_number >= MAX_ATTEMPTS or state.idle_for + state.upcoming_sleep > MAX_TOTAL_WAIT_S
        ),
        sleep=_sleep,
        reraise=True,
    )
    try:
        return retrying(call)
    except (TransientError, *LIBRARY_ERRORS) as error:
        raise to_shapelake_error(asked, error) from error


def to_shapelake_error(asked: str, error: BaseException) -> ShapelakeError:
    """An error of the library or its transport in our own words: FetchError where it may pass, else UsageError."""
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        return to_shapelake_error(asked, error.__cause__)
    for kind, found, do in ERROR_MESSAGES:
        if isinstance(error, kind):
            return NotFoundError(asked, found, do) if kind in ABSENT_ERRORS else UsageError(asked, found, do)
    if isinstance(error, errors.HfHubHTTPError):
        return _error_for_status(asked, error.response.status_code)
    if isinstance(error, TransientError):
        wait = f" and asks to wait {error.wait_s:,.0f} s" if error.wait_s else ""
        return FetchError(asked, f"the Hub {error.found}{wait}, {MAX_ATTEMPTS} tries at most", "Try again later")
    # Never the transport's own words: of a malformed header it quotes the value, and that may be the token.
    return FetchError(asked, f"no whole answer ({type(error).__name__})", "Check the network and HF_ENDPOINT")


def last_response_path() -> str:
    """Path of the address from which this thread's last answer came: after redirects, the canonical one."""
    return _LAST.path


def _is_transient(error: BaseException) -> bool:
    """Of a broken download only a reset connection: the others the library has tried again itself."""
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUSES
    return isinstance(error, TransientError | httpx2.ReadError | json.JSONDecodeError | errors.XetDownloadError)


def _error_for_status(asked: str, status: int) -> ShapelakeError:
    if status in TRANSIENT_STATUSES:
        return FetchError(asked, f"the Hub answers {status}", "Try again later")
    if status in (401, 403):
        return UsageError(asked, f"the Hub refuses it ({status})", "Set HF_TOKEN to a token that may read it")
    return UsageError(asked, f"the Hub answers {status}", "Correct the name, or HF_ENDPOINT")


@cache
def _prepare() -> None:
    """Once per process: our HTTP client, no telemetry, no bars and no log lines but our own.

    Plain HTTP unless HF_HUB_DISABLE_XET says otherwise: only there can a stall be seen, and the xet cache is disk that
    no budget counts.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_XET = os.environ.get("HF_HUB_DISABLE_XET", "1").upper() in constants.ENV_VARS_TRUE_VALUES
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings quote signed addresses
    set_client_factory(_client)


class _Client(httpx2.Client):
    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        if stream:  # a download, which the library resumes
            return super().send(request, stream=True, **options)
        try:
            answer = super().send(request, **options)
        except httpx2.TransportError as error:
            raise TransientError(f"gives no whole answer ({type(error).__name__})") from error
        if answer.status_code in TRANSIENT_STATUSES:
            raise TransientError(f"answers {answer.status_code}", _retry_after_s(answer))
        _LAST.path = answer.url.path
        return answer


def _client() -> httpx2.Client:
    return _Client(event_hooks={"request": [_limit_request]}, follow_redirects=True, timeout=None)


def _limit_request(request: httpx2.Request) -> None:
    """A time limit on every request, and the token for the endpoint alone."""
    if constants.is_offline_mode():
        raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    limits = request.extensions.setdefault("timeout", {})
    for step in ("connect", "read", "write", "pool"):
        limits[step] = limits.get(step) or TIMEOUT_S
    if not _is_at(request.url, constants.ENDPOINT):
        request.headers.pop("Authorization", None)


def _is_at(url: httpx2.URL, endpoint: str) -> bool:
    other = httpx2.URL(endpoint)
    return (url.scheme, url.host, url.port) == (other.scheme, other.host, other.port)


def _retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds from `Retry-After` (a number or a date), or to the end of the rate limit's window."""
    after = response.headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    try:
        return max((parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        window = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", "")) if response.status_code == 429 else None
        return float(window[1]) if window else None


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and error.wait_s is not None:
        return error.wait_s + _JITTER.uniform(0.0, 0.5) * FIRST_WAIT_S
    return FIRST_WAIT_S * 2 ** (state.attempt_number - 1) * _JITTER.uniform(0.5, 1.5)


def _sleep(seconds: float) -> None:
    """Wait, and say so where a person would wonder."""
    end = time.monotonic() + seconds
    with Progress("Waiting for the Hub", round(seconds), "s") as progress:
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            progress.advance(1)


def _require_usable_token() -> None:
    """A token with a control or foreign character would come back inside the transport's own error."""
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()):
        raise UsageError("HF_TOKEN", "it has characters that no token has", "Copy it again")
