"""Files of a checkpoint on the Hub, behind the interface of a local folder; only small files are downloaded."""

from collections.abc import Iterable

from pipeline.catalog import hub_client
from pipeline.catalog.hub_client import TreeEntry
from pipeline.spec import HubFile, RemoteFiles


class HubFolder:
    """Files in one folder of a Hub repo at one commit.

    Args:
        shas: cache of sha256 by git blob id. All folders share it, so that equal tokenizer files are hashed only once.
    """

    def __init__(
        self, repo: str, commit: str, entries: Iterable[TreeEntry], shas: dict[str, str], subfolder: str = ""
    ) -> None:
        self.repo, self.commit, self.subfolder, self._shas = repo, commit, subfolder, shas
        self.location = "/".join(filter(None, (f"{repo}@{commit}", subfolder)))
        prefix = f"{subfolder}/" if subfolder else ""
        inside = {entry.path.removeprefix(prefix): entry for entry in entries if entry.path.startswith(prefix)}
        self._entries = {name: entry for name, entry in inside.items() if "/" not in name}
        self.names = frozenset(self._entries)

    def read(self, name: str) -> bytes:
        return hub_client.fetch_small_file(self.repo, self.commit, self._entries[name])

    def sha256(self, name: str) -> str:
        entry = self._entries[name]
        if entry.oid not in self._shas:
            self._shas[entry.oid] = hub_client.fetch_sha256(self.repo, self.commit, entry)
        return self._shas[entry.oid]

    def size(self, name: str) -> int:
        return self._entries[name].size

    def to_remote(self, names: Iterable[str]) -> RemoteFiles:
        """Return the files to download: those of `names` that exist."""
        present = sorted(set(names) & self.names)
        files = tuple(HubFile(path=name, size=self.size(name), sha256=self.sha256(name)) for name in present)
        return RemoteFiles(repo=self.repo, commit=self.commit, files=files, subfolder=self.subfolder)


def find_folders_with(entries: Iterable[TreeEntry], file_name: str) -> tuple[str, ...]:
    """Return the sorted subfolders that contain a file called `file_name`."""
    suffix = f"/{file_name}"
    return tuple(sorted(entry.path.removesuffix(suffix) for entry in entries if entry.path.endswith(suffix)))
