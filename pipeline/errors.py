"""Errors a user can act on: what was asked, what was found, what to do, in two lines."""


class ShapelakeError(ValueError):
    """Wrong input from outside; never raised for a defect of this code.

    Args:
        asked: what the caller wanted, with the name of the thing (a file, a field, a revision).
        found: what is there instead.
        do: the next step, as an imperative sentence without the full stop.
    """

    def __init__(self, asked: str, found: str, do: str) -> None:
        super().__init__(asked, found, do)
        self.asked, self.found, self.do = asked, found, do

    def __str__(self) -> str:
        stop = "" if self.found.endswith(("?", ".")) else "."
        return f"{self.asked}: {self.found}{stop}\n{self.do}."


class UsageError(ShapelakeError):
    """A sweep file, a flag or a path that cannot mean anything (exit code 2)."""


class NotFoundError(UsageError):
    """A repo, a revision, a commit or a file that is not there, or not for us to see."""


class CheckpointError(ShapelakeError):
    """Files that are not a complete, finite, loadable checkpoint."""


class FilesChangedError(ShapelakeError):
    """Files that are not those that were planned."""


class CorpusError(ShapelakeError):
    """A corpus that is absent, not what it claims to be, or too small for the recipe."""


class FetchError(ShapelakeError):
    """A download that failed on the way: it may work the next time."""


class LakeError(ShapelakeError):
    """A lake that cannot be read or written."""


class RecipeDriftError(UsageError):
    """A recipe that changed under an old `name@version`."""
