"""Rate limit of the Hub's API as stated in its answers, and the time that further requests take under this limit."""

import threading
import time
from collections.abc import Mapping

from huggingface_hub import get_token
from huggingface_hub.utils import parse_ratelimit_headers

TELL_END_FROM_S = 60.0
"""A progress line states the expected remaining time only if it is at least this many seconds."""


class RateLimit:
    """Requests left in the Hub's current window, and the waits for the next window; shared by threads.

    The Hub counts requests in fixed windows of 300 s: 500 per address without a token, 1,000 or more with one
    (https://huggingface.co/docs/hub/rate-limits). Downloads have a separate limit, which is not tracked here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waits = 0
        self._resume_at = 0.0
        self._left, self._reset_at, self._limit, self._window_s = 0, 0.0, 0, 0.0

    def record_answer(self, headers: Mapping[str, str]) -> None:
        """Record the rate limit state from the headers of an answer."""
        info = parse_ratelimit_headers(headers)
        if info and info.resource_type == "api" and info.limit and info.window_seconds:
            with self._lock:
                self._left, self._reset_at = info.remaining, time.monotonic() + info.reset_in_seconds
                self._limit, self._window_s = info.limit, info.window_seconds

    def record_wait(self, seconds: float) -> None:
        """Record that the Hub refuses requests for `seconds`; all refusals within one wait count as one wait."""
        now = time.monotonic()
        with self._lock:
            self.waits += now >= self._resume_at
            self._resume_at = max(self._resume_at, now + seconds)

    def seconds_for(self, requests: int) -> float:
        """Return the seconds until the rate limit permits `requests` more requests; 0 if no limit is known."""
        now = time.monotonic()
        with self._lock:
            is_over = now >= self._reset_at
            left, reset_s = (self._limit, self._window_s) if is_over else (self._left, self._reset_at - now)
            if requests <= left or not self._limit:
                return 0.0
            return reset_s + (requests - left - 1) // self._limit * self._window_s

    def describe(self, requests: int, seconds_each: float) -> str:
        """Return text for the end of a progress line: the waits so far, and the expected duration of `requests` more.

        The text is empty or begins with a comma.

        Args:
            seconds_each: duration of one request apart from the rate limit.
        """
        parts = [f"{self.waits} wait{'s'[: self.waits > 1]} for the rate limit"] if self.waits else []
        if (pause := self._resume_at - time.monotonic()) > 0:
            parts.append(f"next request in {pause:.0f} s")
        if (seconds := max(self.seconds_for(requests), seconds_each * requests)) >= TELL_END_FROM_S:
            parts.append(f"about {seconds / 60:,.0f} min left")
        if self.waits and get_token() is None:
            parts.append("set HF_TOKEN for a higher limit")
        return "".join(f", {part}" for part in parts)

    def describe_rest(self, started: float, done: int, total: int) -> str:
        """Return `describe` for the requests left of `total`, if they take as long as the `done` ones did on average.

        Args:
            started: start of the first request, as a value of `time.monotonic`.
        """
        seconds_each = (time.monotonic() - started) / done if done else 0.0
        return self.describe(total - done, seconds_each)


RATE_LIMIT = RateLimit()
"""Rate limit of this process, shared by all its requests."""
