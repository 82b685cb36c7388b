"""Fake Hugging Face Hub on loopback with fault injection: the endpoints that huggingface_hub and transformers use.

    with FakeHub() as hub:
        repo = hub.repo("org/name")
        sha = repo.commit({"config.json": b"{}", "model.safetensors": weights}, branch="step1")
        repo.tag("v1", sha)
        hub.fail("*/refs", status=503, times=2)

Large files are served on a second port, which stands for the Hub's CDN and must never receive a token.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

from tests.support.fake_hub_server import Handler

LARGE = re.compile(r"\.(safetensors|bin|h5|msgpack|onnx|gguf|pth|pt)$")
"""Files that .gitattributes usually assigns to LFS."""


@dataclass(frozen=True)
class File:
    """Content of a file, with its sha256 and git blob id."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """Git blob id of the file, or of its LFS pointer."""
        return hashlib.sha1(b"blob %d\0" % len(self.pointer) + self.pointer).hexdigest()

    @property
    def pointer(self) -> bytes:
        if not self.is_lfs:
            return self.data
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repo:
    """Model repository: immutable commits, and branches and tags that point to them."""

    id: str
    gated: bool = False
    """True if only `granted` tokens can read files; refs and trees are public."""
    granted: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Commit `files` (path -> bytes, None = remove) on `branch`, which is created empty if it does not exist."""
        tree = dict(self.commits.get(self.branches.get(branch, ""), {}))
        for path, data in files.items():
            tree.pop(path, None)
            if data is not None:
                tree[path] = File(data, bool(LARGE.search(path)))
        history = f"{self.id} {branch} {len(self.commits)} {[(path, tree[path].oid) for path in sorted(tree)]}"
        sha = hashlib.sha1(history.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = tree, sha
        return sha

    def tag(self, name: str, sha: str) -> None:
        self.tags[name] = sha

    def delete(self, name: str) -> None:
        """Remove a branch or tag; its commit stays readable."""
        (self.branches if name in self.branches else self.tags).pop(name)

    def forget(self, sha: str) -> None:
        """Remove a commit with its branches and tags, as a squash of the history does."""
        del self.commits[sha]
        for refs in (self.branches, self.tags):
            for name in [name for name, target in refs.items() if target == sha]:
                del refs[name]

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit id."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None


@dataclass
class Request:
    """Logged request of a client, without the token."""

    method: str
    path: str
    """URL path without the query."""
    query: str
    port: int
    authorized: bool
    """True if the request had an Authorization header."""
    headers: dict[str, str]
    """Headers except Authorization, with lower-case names."""
    status: int = 0
    sent: int = 0
    """Bytes of the response body that were sent."""
    at: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """Injected fault for the next `times` matching requests; None = for all."""

    pattern: str
    method: str
    times: int | None
    status: int | None
    headers: dict[str, str]
    cut: int | None
    flip: int | None
    stall: float | None

    @property
    def is_in_the_body(self) -> bool:
        return self.status is None


class FakeHub:
    """Hub and CDN servers, the repositories, the request log and the pending faults."""

    page = 1000
    """Entries per page of a tree listing."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.renames: dict[str, str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.stopping = Event()
        self.lock = Lock()
        self._servers = [self._serve(), self._serve()]
        self.port, self.cdn_port = (server.server_address[1] for server in self._servers)

    def __enter__(self) -> "FakeHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment for a child process that uses this Hub, with all state under `folder`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "SHAPELAKE_CACHE": str(folder / "cache"),
            "SHAPELAKE_SCRATCH": str(folder / "scratch"),
        }

    def repo(self, name: str) -> Repo:
        """Return the repository `name`; creates it if it does not exist."""
        return self.repos.setdefault(name, Repo(name))

    def rename(self, old: str, new: str) -> None:
        """Rename a repository; requests for `old` are redirected with status 307."""
        repo = self.repos.pop(old)
        repo.id = new
        self.repos[new], self.renames[old] = repo, new

    def fail(
        self,
        pattern: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        cut: int | None = None,
        flip: int | None = None,
        stall: float | None = None,
        times: int | None = 1,
        method: str = "*",
    ) -> None:
        """Inject a fault into the next `times` (None = all) requests whose path matches the glob `pattern`.

        Args:
            status: respond with this status and `headers`. Without a status, the response body is faulty:
            cut: number of body bytes after which the connection is closed.
            flip: index of the body byte whose lowest bit is inverted.
            stall: pause in seconds, after `cut` bytes or before the first byte.
        """
        self.faults.append(Fault(pattern, method, times, status, dict(headers or {}), cut, flip, stall))

    def fault(self, method: str, path: str, is_in_the_body: bool) -> Fault | None:
        """Take the next fault for a request; decrements its `times`."""
        with self.lock:
            for fault in self.faults:
                matches = fnmatch(path, fault.pattern) and fnmatch(method, fault.method) and fault.times != 0
                if matches and fault.is_in_the_body == is_in_the_body:
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def asked(self, pattern: str = "*", method: str = "*") -> list[Request]:
        """Return the logged requests whose path matches the glob `pattern`."""
        return [r for r in self.requests if fnmatch(r.path, pattern) and fnmatch(r.method, method)]

    def _serve(self) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        server.daemon_threads = True
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server
