"""Discovery of histories in local folders and on the Hub.

The modules for the Hub are imported on demand, because their import takes half a second and a local sweep does not need
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

from pipeline.catalog import local_histories
from pipeline.catalog.checkpoint_files import LocalFolder, is_adapter_alone
from pipeline.catalog.revisions import History
from pipeline.errors import UsageError
from pipeline.sources import REPO_REVISION
from pipeline.spec import Checkpoint, CheckpointSource, Hub, Local

if TYPE_CHECKING:
    from pipeline.catalog.hub_discovery import SourceRepos

OpenedSource = Union[Local, "SourceRepos"]
"""A local source, or a source on the Hub together with the refs (branches and tags) of its repos."""


def discover_histories(source: CheckpointSource, models: str = "*") -> tuple[History, ...]:
    """Return the histories of a source, each with its revisions in training order; see `discover_all`."""
    return discover_all((source,), models)


def discover_all(sources: Sequence[CheckpointSource], models: str = "*") -> tuple[History, ...]:
    """Return the histories of all sources in their order, each with its revisions in training order.

    Args:
        models: glob over model names; members of a family that do not match are not requested from the Hub.

    A Hub repo needs one request for its refs, and one request for the tree (file list) of each commit that is not
    cached. A family whose checkpoints are repos, or whose repo ids are patterns, needs one more request per owner for
    the list of the owner's repos. Answers are cached as they arrive, so that an interrupted discovery resumes where it
    stopped.

    Raises:
        UsageError: the folder, repo or family does not exist or cannot be measured.
        FetchError: the Hub did not answer.
    """
    return read_histories(open_sources(sources, models))


def open_sources(sources: Sequence[CheckpointSource], models: str = "*") -> tuple[OpenedSource, ...]:
    """Return the sources in their order, those on the Hub with the refs of their repos. See `discover_all`."""
    opened: dict[int, OpenedSource] = {id(source): source for source in sources if isinstance(source, Local)}
    if on_hub := [source for source in sources if not isinstance(source, Local)]:
        from pipeline.catalog import hub_discovery

        opened |= dict(zip(map(id, on_hub), hub_discovery.open_sources(on_hub, models), strict=True))
    return tuple(opened[id(source)] for source in sources)


def read_histories(opened: Sequence[OpenedSource]) -> tuple[History, ...]:
    """Return the histories of opened sources in their order. See `discover_all`."""
    found = {id(source): _discover_local(source) for source in opened if isinstance(source, Local)}
    if on_hub := [source for source in opened if not isinstance(source, Local)]:
        from pipeline.catalog import hub_discovery

        names = {one.source.base for one in on_hub if isinstance(one.source, Hub) and one.source.base}
        bases = {name: find_base(name) for name in sorted(names)}
        found |= dict(zip(map(id, on_hub), hub_discovery.read_histories(on_hub, bases), strict=True))
    return tuple(history for source in opened for history in found[id(source)])


def _discover_local(source: Local) -> tuple[History, ...]:
    return (local_histories.discover_history(source, find_base(source.base) if source.base else None),)


def find_base(name: str) -> Checkpoint:
    """Return the checkpoint of the base model of adapters.

    Args:
        name: a folder, or REPO@REVISION on the Hub; REPO alone means its branch `main`.

    Raises:
        UsageError: no such folder, repo or revision exists, or the base is an adapter itself.
        FetchError: the Hub did not answer.
    """
    if Path(name).is_dir():
        if is_adapter_alone(LocalFolder(Path(name))):
            raise UsageError(f"base {name}", "it is an adapter too", "Name the folder or repo of the adapted model")
        return local_histories.inspect_checkpoint(Path(name).resolve())
    if (match := REPO_REVISION.fullmatch(name)) is None:
        raise UsageError(f"base {name}", "no such folder", "Give a folder with config.json, or REPO@REVISION")
    return resolve_checkpoint(Hub(hub=match["repo"]), match["revision"] or "main")


def resolve_checkpoint(source: Hub, revision: str = "main") -> Checkpoint:
    """Return the checkpoint of a repo at a branch, tag, subfolder or commit, whose name need not state a step.

    Raises:
        UsageError: the revision does not exist or cannot be measured.
        FetchError: the Hub did not answer.
    """
    from pipeline.catalog import hub_discovery

    return hub_discovery.resolve_checkpoint(source, revision, find_base(source.base) if source.base else None)
