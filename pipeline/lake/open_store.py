"""Opening of the store at a lake's URI. It has a module of its own, because both kinds of store import `store`."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError
from pipeline.lake.local_store import LocalStore
from pipeline.lake.store import Store

OBJECT_STORE_SCHEMES = ("s3", "gs", "az")
SUPPORTED_URIS_HINT = "Name a folder, or an object store with s3://, gs:// or az://"


def open_store(uri: str | Path) -> Store:
    """Open the store at a folder, a `file://` URI or an object store; nothing is created before the first write.

    Raises:
        UsageError: the path is empty or a file, the scheme is not supported, or obstore is not installed.
    """
    text = str(uri)
    parts = urlsplit(text) if "://" in text else None
    if parts and parts.scheme in OBJECT_STORE_SCHEMES:
        return _open_objects(text)
    if parts and (parts.scheme != "file" or parts.netloc not in ("", "localhost")):
        found = f"{parts.scheme}://{parts.hostname or ''} is not a supported store"
        raise UsageError(f"lake {text}", found, SUPPORTED_URIS_HINT)
    path = unquote(parts.path) if parts else text
    if not path:
        raise UsageError("lake ''", "no path", "Name a folder")
    store = LocalStore(Path(path))
    if store.root.exists() and not store.root.is_dir():
        raise UsageError(f"lake {text}", "a file, not a folder", "Name a folder")
    return store


def _open_objects(uri: str) -> Store:
    try:
        from pipeline.lake.object_store import ObjectStore  # obstore is an extra
    except ModuleNotFoundError as error:
        found = f"object stores need {error.name}, which is not installed"
        raise UsageError(f"lake {uri}", found, "Install the extra: pip install 'shapelake[cloud]'") from error
    return ObjectStore(uri)
