"""A Hugging Face Hub on loopback: the endpoints and headers that huggingface_hub and transformers use, and faults.

    with FakeHub() as hub:
        repo = hub.repo("org/name")
        sha = repo.commit({"config.json": b"{}", "model.safetensors": weights}, branch="step1")
        repo.tag("v1", sha)
        hub.fail("*/refs", status=503, times=2)

Large files are served by a second port, as the Hub's CDN does: a token must never get there.
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

from tests.hub.server import Handler

LARGE = re.compile(r"\.(safetensors|bin|h5|msgpack|onnx|gguf|pth|pt)$")
"""What a repository's .gitattributes usually gives to LFS."""


@dataclass(frozen=True)
class File:
    """One file's bytes and the two names the Hub gives them."""

    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """The git blob: of the file, or of the pointer that stands for it."""
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
    """A model repository: commits never change, branches and tags point at them."""

    id: str
    gated: bool = False
    """Only `granted` tokens get its files; refs and trees are open to all."""
    granted: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Put `files` (path -> bytes, None = removed) on top of `branch`, or of nothing where it is new."""
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
        """Remove a branch or tag; its commit can still be read."""
        (self.branches if name in self.branches else self.tags).pop(name)

    def forget(self, sha: str) -> None:
        """Remove a commit and what points at it, as a squashed history does."""
        del self.commits[sha]
        for refs in (self.branches, self.tags):
            for name in [name for name, target in refs.items() if target == sha]:
                del refs[name]

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return sha if sha in self.commits else None


@dataclass
class Request:
    """What a client asked; the token itself is not kept."""

    method: str
    path: str
    """Without the query."""
    query: str
    port: int
    authorized: bool
    """An Authorization header was sent."""
    headers: dict[str, str]
    """All but Authorization, names in lower case."""
    status: int = 0
    sent: int = 0
    """Bytes of the body that went out."""
    at: float = field(default_factory=time.monotonic)


@dataclass
class Fault:
    """One thing that goes wrong, for the next `times` requests that match; null = for ever."""

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
    """Both servers, the repositories, the log of requests and the faults to come."""

    page = 1000
    """Entries per page of a tree."""

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
        """What a child process needs to take this for the Hub, with all its state under `folder`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "SHAPELAKE_CACHE": str(folder / "cache"),
            "SHAPELAKE_SCRATCH": str(folder / "scratch"),
        }

    def repo(self, name: str) -> Repo:
        """The repository `name`, new where there is none."""
        return self.repos.setdefault(name, Repo(name))

    def rename(self, old: str, new: str) -> None:
        """`old` answers 307 to `new` from now on."""
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
        """Let the next `times` (None = all) requests whose path matches the glob `pattern` go wrong.

        Args:
            status: answer this, with `headers`, in place of what was asked for. Without it the reply itself suffers:
            cut: close the connection after so many bytes of the body.
            flip: invert the lowest bit of the body's byte of this number.
            stall: send nothing for so many seconds, after `cut` bytes or before the first.
        """
        self.faults.append(Fault(pattern, method, times, status, dict(headers or {}), cut, flip, stall))

    def fault(self, method: str, path: str, is_in_the_body: bool) -> Fault | None:
        """The next fault for a request, used up by asking."""
        with self.lock:
            for fault in self.faults:
                wanted = fnmatch(path, fault.pattern) and fnmatch(method, fault.method) and fault.times != 0
                if wanted and fault.is_in_the_body == is_in_the_body:
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def asked(self, pattern: str = "*", method: str = "*") -> list[Request]:
        """The requests so far whose path matches the glob `pattern`."""
        return [r for r in self.requests if fnmatch(r.path, pattern) and fnmatch(r.method, method)]

    def _serve(self) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        server.daemon_threads = True
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server
