"""A lake in an object store: one request per file, created only where its name is free."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
from obstore.store import from_url

from pipeline.errors import LakeError, UsageError
from pipeline.lake.store import Keys, Store, split_key

MAX_CONCURRENT_READS = 16
CLIENT_OPTIONS = {"connect_timeout": "5s", "timeout": "300s"}
RETRY = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
UNSUPPORTED_MARKERS = ("501 Not Implemented", "NotImplemented")
SECRET_PATTERNS = (
    (r"(non-2xx status code: \d{3}[^:]*|error response):.*", r"\1"),  # the body: S3's own may quote the session's token
    (r"\?\S+", ""),  # queries of URLs, which may hold a signature
    (r"//[^/\s]*@", "//"),  # user and password of an endpoint
    (r'".*"', '"..."'),  # a setting that cannot be read
)
"""What an error may say that is secret, and what stays of it."""


class ObjectStore(Store):
    """A prefix of a bucket or container; credentials and endpoint come from the environment, as for any of its tools.

    A file is one put request under the condition that its name is free, so it is whole or absent, and of two writers
    one creates it. Stores that ignore the condition are found out by `probe`; there, as where it is refused, the look
    at the name before each put is all there is.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        place = urlsplit(uri)
        if not place.netloc or "@" in place.netloc or place.query or place.fragment:
            found = "no bucket" if not place.netloc else "more than a bucket and a prefix"
            do = "Give SCHEME://BUCKET/PREFIX; keys and endpoints belong into the environment"
            raise UsageError(f"lake {place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}", found, do)
        with self._as_lake_error("open"):
            options = CLIENT_OPTIONS | {
                "allow_http": os.environ.get("AWS_ALLOW_HTTP") == "true"
            }  # else given options hide it
            self._objects = from_url(self.uri, client_options=options, retry_config=RETRY)  # type: ignore[arg-type]

    def exists(self) -> bool:
        with self._as_lake_error("list"):
            return any(self._objects.list(chunk_size=1))

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

    def paths_or_bytes(self, keys: Iterable[str]) -> Sequence[bytes]:
        with ThreadPoolExecutor(MAX_CONCURRENT_READS) as pool:
            return list(pool.map(self.get, keys))

    def list(self, prefix: str) -> Keys:
        with self._as_lake_error(f"list {_key(prefix)} of"):
            return sorted(found["path"] for chunk in self._objects.list(prefix) for found in chunk)

    def delete(self, key: str) -> bool:
        if not self.has(key):
            return False
        with self._as_lake_error(f"delete {_key(key)} of"):
            self._objects.delete(key)
        return True

    def list_stale_staging(self, age_s: float) -> Keys:
        return []  # a put that is cut off leaves nothing

    def _warn_no_conditional_put(self) -> None:
        warnings.warn(
            f"lake {self.uri}: this store refuses to create a file only where its name is free, so names are looked "
            "at before each write. Files still appear whole or not at all, but of two writers of one file both may "
            "count as the first, and the later one stays.",
            RuntimeWarning,
            stacklevel=2,  # one place, so that Python says it once
        )

    @contextmanager
    def _as_lake_error(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            do = "Check the bucket's name, the credentials and the endpoint in the environment"
            # Without its cause, of which a traceback would show all that is hidden here.
            raise LakeError(f"{what} the lake {self.uri}", _redacted_first_line(error), do) from None


def _key(key: str) -> str:
    return "/".join(split_key(key))


def _is_unsupported(error: Exception) -> bool:
    return isinstance(error, NotSupportedError | NotImplementedError) or any(
        word in str(error) for word in UNSUPPORTED_MARKERS
    )


def _redacted_first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0]
    for secret, rest in SECRET_PATTERNS:
        line = re.sub(secret, rest, line)
    return line
