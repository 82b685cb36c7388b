"""Entry point for histories, local or on the Hub. The Hub modules are imported on demand: their import takes half a
second, which a local sweep does not need."""

from pipeline.catalog import local_histories
from pipeline.catalog.revisions import History
from pipeline.spec import Checkpoint, CheckpointSource, Hub, Local


def discover_histories(source: CheckpointSource, models: str = "*") -> tuple[History, ...]:
    """Return the histories of a source, each with its revisions in training order.

    Args:
        models: glob over model names; members of a family that do not match are not requested from the Hub.

    A Hub repo costs one refs request and one tree request per commit that is not cached; a family whose checkpoints
    are repos, or whose repos are given by a pattern, costs one more listing request per owner.

    Raises:
        UsageError: the folder, repo or family does not exist or cannot be measured.
        FetchError: the Hub did not answer.
    """
    if isinstance(source, Local):
        return (local_histories.discover_history(source),)
    from pipeline.catalog import hub_discovery

    return hub_discovery.discover_histories(source, models)


def resolve_checkpoint(source: Hub, revision: str = "main") -> Checkpoint:
    """Return one checkpoint of a repo by branch, tag, subfolder or commit; its name need not state a step.

    Raises:
        UsageError: the revision does not exist or cannot be measured.
        FetchError: the Hub did not answer.
    """
    from pipeline.catalog import hub_discovery

    return hub_discovery.resolve_checkpoint(source, revision)
