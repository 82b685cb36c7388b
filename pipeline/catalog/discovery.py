"""The one door to histories, wherever they are. What speaks to the Hub is loaded only for what is there: it takes half
a second that a local sweep need not wait."""

from pipeline.catalog import local_histories
from pipeline.catalog.revisions import History
from pipeline.spec import Checkpoint, CheckpointSource, Hub, Local


def discover_histories(source: CheckpointSource, models: str = "*") -> tuple[History, ...]:
    """The histories of a source, each with its revisions in training order.

    Args:
        models: glob over model names; of a family the others are not asked for.

    Of a repo of the Hub one refs request is made, and one tree request per commit not seen before; of a family whose
    checkpoints are repos, or are named by a pattern, one listing more.

    Raises:
        UsageError: no such folder, repo or family, or one that cannot be measured.
        FetchError: the Hub gives no answer now.
    """
    if isinstance(source, Local):
        return (local_histories.discover_history(source),)
    from pipeline.catalog import hub_discovery

    return hub_discovery.discover_histories(source, models)


def resolve_checkpoint(source: Hub, revision: str = "main") -> Checkpoint:
    """One checkpoint of a repo: a branch, tag, sub-folder or commit, whether or not its name says where it stands.

    Raises:
        UsageError: there is none of that name, or it cannot be measured.
        FetchError: the Hub gives no answer now.
    """
    from pipeline.catalog import hub_discovery

    return hub_discovery.resolve_checkpoint(source, revision)
