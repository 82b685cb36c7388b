"""Errors that a user can act on: what was asked, what was found and what to do, printed as two lines."""

from pipeline.terminal import escape_control


class ShapelakeError(ValueError):
    """Base class of errors caused by input; never raised for a defect of this code.

    Args:
        asked: the request, with the name of the thing (a file, a field, a revision).
        found: the reason why the request failed.
        do: the next step for this case, as an imperative sentence without the full stop.
    """

    def __init__(self, asked: str, found: str, do: str) -> None:
        super().__init__(asked, found, do)
        self.asked, self.found, self.do = asked, found, do

    def __str__(self) -> str:
        """Return exactly two lines: control characters of names, line breaks included, are escaped."""
        asked, found, do = map(escape_control, (self.asked, self.found, self.do))
        stop = "" if found.endswith(("?", ".")) else "."
        return f"{asked}: {found}{stop}\n{do}."


class UsageError(ShapelakeError):
    """A sweep file, an option or a path is invalid (exit code 2)."""


class NotFoundError(UsageError):
    """A repo, revision, commit or file does not exist, or this user may not read it."""


class CheckpointError(ShapelakeError):
    """The files of a checkpoint are incomplete, contain non-finite weights or cannot be loaded."""


class FilesChangedError(ShapelakeError):
    """The files of a checkpoint changed or disappeared after the plan was made."""


class CorpusError(ShapelakeError):
    """A corpus is absent, has the wrong checksum, does not fit the model or is too small for the recipe (exit code
    2)."""


class FetchError(ShapelakeError):
    """A download failed in transit; a retry may succeed."""


class LakeError(ShapelakeError):
    """A lake cannot be read or written."""


class LeftOutWarning(UserWarning):
    """A damaged file of a lake is left out of all results. The commands list these files and exit with code 1."""


class ForeignFileWarning(UserWarning):
    """A file in a lake's folder does not belong to the lake and is ignored."""


class BackendLostError(ShapelakeError):
    """Ray no longer works: its head, its daemon on this node or the connection to them is gone."""


class RecipeDriftError(UsageError):
    """The fields of a recipe changed, although its `name@version` did not."""
