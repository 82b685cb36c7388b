"""Listing of many Hub models in the background, so that a sweep can measure the first models meanwhile.

200 repos with 150 branches each need 30,000 tree requests, which take five hours at the Hub's limit of 500 requests per
five minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from threading import Event
from time import monotonic

from pipeline.catalog import hub_client
from pipeline.catalog.hub_client import Commit
from pipeline.catalog.hub_discovery import SourceRepos
from pipeline.catalog.hub_http import wait_silently
from pipeline.catalog.hub_limits import RATE_LIMIT
from pipeline.catalog.revision_resolver import PARALLEL_REQUESTS, TELL_EVERY_S, list_commits
from pipeline.errors import NotFoundError
from pipeline.progress import Progress


class HubListing:
    """Tree requests of some models, sent by a thread pool in the order of the models; see `list_in_background`."""

    def __init__(self, models: Sequence[SourceRepos], pool: ThreadPoolExecutor) -> None:
        self._start, self._models = monotonic(), list(models)
        futures = {commit: pool.submit(_fetch_tree, commit) for commit in _uncached_commits(models)}
        self._all = list(futures.values())
        self._pending = [{futures[c] for c in list_commits(m.refs) if c in futures} for m in models]

    @property
    def models_left(self) -> int:
        """Number of models that `take` has not returned yet."""
        return len(self._models)

    @property
    def requests_left(self) -> int:
        return sum(not future.done() for future in self._all)

    def take(self) -> list[SourceRepos]:
        """Return the models with all trees fetched that no earlier call returned; wait until there is at least one.

        The list is empty once no model is left.

        Raises:
            FetchError: the Hub did not answer.
        """
        with Progress("Listing the files of the next model", len(self._all), "requests") as progress:
            while not (listed := self._listed()) and self._models:
                open_requests = [future for future in self._all if not future.done()]
                wait(open_requests, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
                self._show(progress)
        left = [i for i in range(len(self._models)) if i not in listed]
        taken = [self._models[i] for i in listed]
        self._models, self._pending = [self._models[i] for i in left], [self._pending[i] for i in left]
        return taken

    def _listed(self) -> list[int]:
        """Return the indices in `self._models` of the models whose trees are all fetched; raise the first error."""
        for future in self._all:
            if future.done():
                future.result()
        return [i for i, futures in enumerate(self._pending) if all(future.done() for future in futures)]

    def _show(self, progress: Progress) -> None:
        done = len(self._all) - self.requests_left
        progress.note = RATE_LIMIT.describe_rest(self._start, done, len(self._all))
        progress.advance(done - progress.done)


@contextmanager
def list_in_background(models: Sequence[SourceRepos]) -> Iterator[HubListing]:
    """Fetch the trees of the models into the cache on disk while the block runs.

    The end of the block cancels the requests that have not been sent.
    """
    stop = Event()
    pool = ThreadPoolExecutor(PARALLEL_REQUESTS, initializer=wait_silently, initargs=(stop,))
    try:
        yield HubListing(models, pool)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def count_requests(models: Sequence[SourceRepos]) -> int:
    """Return the number of tree requests that the cache on disk cannot answer."""
    return len(_uncached_commits(models))


def _uncached_commits(models: Sequence[SourceRepos]) -> list[Commit]:
    return hub_client.uncached_trees(list_commits(ref for model in models for ref in model.refs))


def _fetch_tree(commit: Commit) -> None:
    with suppress(NotFoundError):  # the plan reports a commit that the Hub lists but does not have
        hub_client.fetch_tree(*commit)
