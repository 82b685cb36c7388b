"""Lake in an object store. Each file is written by one put request, on the condition that its name is free."""

import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import from_url

from pipeline.errors import LakeError, UsageError
from pipeline.lake.store import EntryKind, Keys, Store, split_key

MAX_CONCURRENT_READS = 16
CLIENT_OPTIONS = {"connect_timeout": "5s", "timeout": "300s"}
RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
UNSUPPORTED_MARKERS = ("501 Not Implemented", "NotImplemented")
SECRET_PATTERNS = (
    (r"(non-2xx status code: \d{3}[^:]*|error response):.*", r"\1"),  # the body: S3 may quote the session token
    (r"\?\S+", ""),  # URL queries, which may hold a signature
    (r"//[^/\s]*@", "//"),  # user and password of an endpoint
    (r'".*"', '"..."'),  # a setting that cannot be parsed
)
"""Patterns of secrets in error messages, and their replacements."""


class ObjectStore(Store):
    """Prefix of a bucket or container; credentials and endpoint come from the usual environment variables.

    Each file is written by one put request, on the condition that its name is free. A file is therefore complete or
    absent, and only one of two concurrent writers creates it. Some stores ignore or refuse the condition; then only the
    check before each put protects existing files. `check_store` detects stores that ignore it.
    """

    lists_slowly = True

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        parts = urlsplit(uri)
        if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
            found = "more than a bucket and a prefix" if parts.netloc else "no bucket"
            do = "Write SCHEME://BUCKET/PREFIX, with keys and endpoint in the environment"
            raise UsageError(f"lake {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", found, do)
        with self._as_lake_error("open"):
            # Passed client options override AWS_ALLOW_HTTP in the environment, so its value is passed too.
            options = CLIENT_OPTIONS | {"allow_http": os.environ.get("AWS_ALLOW_HTTP") == "true"}
            self._objects = from_url(self.uri, client_options=options, retry_config=RETRY)  # type: ignore[arg-type]

    def top_names(self) -> set[str] | None:
        with self._as_lake_error("list"):
            found = self._objects.list_with_delimiter()
        keys = [*found["common_prefixes"], *(file["path"] for file in found["objects"])]
        return {key.rstrip("/") for key in keys} or None

    def has(self, key: str) -> bool:
        with self._as_lake_error(f"read {_key(key)} of"):
            try:
                self._objects.head(key)
            except FileNotFoundError:
                return False
            return True

    def create_if_absent(self, key: str, data: bytes) -> bool:
        with self._as_lake_error(f"write {_key(key)} to"):
            try:
                self._objects.put(key, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            except (BaseError, NotImplementedError) as error:
                if not _is_unsupported(error):
                    raise
                self._warn_no_conditional_put()
                self._objects.put(key, data, use_multipart=False)
            return True

    def put_or_replace(self, key: str, data: bytes) -> None:
        with self._as_lake_error(f"write {_key(key)} to"):
            self._objects.put(key, data, use_multipart=False)

    def get(self, key: str) -> bytes:
        with self._as_lake_error(f"read {_key(key)} of"):
            return self._objects.get(key).bytes().to_bytes()

    def put_new_file(self, key: str, path: Path) -> bool:
        """Create `key` with a file's content, which is read into memory: obstore cannot stream a conditional put."""
        return self.put_new(key, path.read_bytes())

    def read_many(self, keys: Sequence[str]) -> list[bytes | str]:
        with ThreadPoolExecutor(MAX_CONCURRENT_READS) as pool:
            return list(pool.map(self.get_or_reason, keys))

    def paths_or_bytes(self, keys: Iterable[str]) -> Sequence[bytes]:
        with ThreadPoolExecutor(MAX_CONCURRENT_READS) as pool:
            return list(pool.map(self.get, keys))

    def list(self, prefix: str, after: str = "") -> Keys:
        with self._as_lake_error(f"list {_key(prefix)} of"):
            chunks = self._objects.list(prefix, offset=after or None)
            return sorted(found["path"] for chunk in chunks for found in chunk)

    def list_entries(self, linked: Collection[str] = ()) -> dict[str, EntryKind]:
        with self._as_lake_error("list"):
            return dict.fromkeys(sorted(found["path"] for chunk in self._objects.list() for found in chunk), "file")

    def delete(self, key: str) -> bool:
        if not self.has(key):
            return False
        with self._as_lake_error(f"delete {_key(key)} of"):
            self._objects.delete(key)
        return True

    def list_stale_staging(self, age_s: float) -> Keys:
        return []  # an interrupted put leaves nothing

    def _warn_no_conditional_put(self) -> None:
        warnings.warn(
            f"lake {self.uri}: the store refuses conditional puts, so only the check before each write protects "
            "existing files. Files are still complete or absent, but two concurrent writers of one file may both "
            "report success, and the later one wins.",
            RuntimeWarning,
            stacklevel=2,  # one code location, so that Python shows the warning once
        )

    @contextmanager
    def _as_lake_error(self, action: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            do = "Check the bucket name, the credentials and the endpoint in the environment"
            # `from None`, because a traceback of the cause would show the unredacted text.
            raise LakeError(f"{action} the lake {self.uri}", _redacted_first_line(error), do) from None


def _key(key: str) -> str:
    return "/".join(split_key(key))


def _is_unsupported(error: Exception) -> bool:
    says_so = any(word in str(error) for word in UNSUPPORTED_MARKERS)
    return says_so or isinstance(error, NotSupportedError | NotImplementedError)


def _redacted_first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    for secret, replacement in SECRET_PATTERNS:
        line = re.sub(secret, replacement, line)
    return line
