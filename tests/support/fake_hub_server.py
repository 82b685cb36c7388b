"""HTTP routes of the fake Hub."""

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from tests.support.fake_hub import FakeHub, File, Repo, Request

REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
ROUTES = {
    "models": re.compile(r"/api/models"),
    "refs": re.compile(rf"/api/models/{REPO}/refs"),
    "tree": re.compile(rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)"),
    "info": re.compile(rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)"),
    "auth": re.compile(rf"/api/models/{REPO}/auth-check"),
    "resolve": re.compile(rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)"),
    "cdn": re.compile(rf"/cdn/{REPO}/(?P<revision>[^/]+)/(?P<file>.+)"),
    "main": re.compile(rf"/api/models/{REPO}"),
}


class Handler(BaseHTTPRequestHandler):
    """Request handler of the Hub and CDN servers."""

    hub: "FakeHub"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def _answer(self) -> None:
        self.asked = self._log()
        if fault := self.hub.fault(self.command, self.asked.path, is_in_the_body=False):
            return self._send(fault.status or 500, b"{}", fault.headers)
        raw = urlsplit(self.path).path  # not unquoted: a slash inside a revision is %2F
        for name, route in ROUTES.items():
            if match := route.fullmatch(raw):
                return self._route(name, {key: unquote(value) for key, value in match.groupdict().items()})
        return self._error(404, "EntryNotFound")

    def _log(self) -> "Request":
        from tests.support.fake_hub import Request

        url = urlsplit(self.path)
        headers = {key.lower(): value for key, value in self.headers.items() if key.lower() != "authorization"}
        port, authorized = self.server.server_address[1], "Authorization" in self.headers
        asked = Request(self.command, unquote(url.path), url.query, port, authorized, headers)
        with self.hub.lock:
            self.hub.requests.append(asked)
        return asked

    def _route(self, name: str, found: dict[str, str]) -> None:
        if name == "models":
            return self._models()
        if new := self.hub.renames.get(found["repo"]):
            return self._send(307, b"", {"Location": self.path.replace(found["repo"], new, 1)})
        repo = self.hub.repos.get(found["repo"])
        if repo is None:
            return self._error(404 if self.asked.authorized else 401, "RepoNotFound")
        commit = repo.resolve(found.get("revision", "main"))
        if commit is None and name not in ("refs", "auth"):
            return self._error(404, "RevisionNotFound")
        return getattr(self, f"_{name}")(repo, commit, found.get("file", ""))

    def _models(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        author, search = query.get("author", [""])[0], query.get("search", [""])[0].lower()
        names = [name for name in self.hub.repos if name.startswith(f"{author}/" if author else "")]
        self._json([{"id": name, "modelId": name} for name in names if search in name.lower()])

    def _refs(self, repo: "Repo", *_: object) -> None:
        listed = {
            key: [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]
            for key, kind, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        self._json({**listed, "converts": []})

    def _info(self, repo: "Repo", commit: str, _: str) -> None:
        files = [{"rfilename": path, "size": len(file.data)} for path, file in repo.commits[commit].items()]
        self._json({"id": repo.id, "sha": commit, "gated": "auto" if repo.gated else False, "siblings": files})

    _main = _info

    def _auth(self, repo: "Repo", *_: object) -> None:
        self._error(403, "GatedRepo") if self._is_denied(repo) else self._json({})

    def _tree(self, repo: "Repo", commit: str, _: str) -> None:
        entries = [_entry(path, file) for path, file in sorted(repo.commits[commit].items())]
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        end, here = start + self.hub.page, urlsplit(self.path).path
        link = {"Link": f'<{self.hub.endpoint}{here}?recursive=true&expand=false&cursor={end}>; rel="next"'}
        self._json(entries[start:end], link if end < len(entries) else {})

    def _resolve(self, repo: "Repo", commit: str, path: str) -> None:
        if self._is_denied(repo):
            return self._error(403 if self.asked.authorized else 401, "GatedRepo")
        file = repo.commits[commit].get(path)
        if file is None:
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.is_lfs:
            return self._bytes(file.data, headers)
        target = f"http://127.0.0.1:{self.hub.cdn_port}/cdn/{repo.id}/{commit}/{quote(path)}"
        linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data)), "Location": target}
        return self._send(302, b"", headers | linked)

    def _cdn(self, repo: "Repo", commit: str, path: str) -> None:
        file = repo.commits[commit][path]
        self._bytes(file.data, {"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"})

    def _is_denied(self, repo: "Repo") -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return repo.gated and token not in repo.granted

    def _bytes(self, data: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the byte range in the Range header."""
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range is None:
            return self._send(200, data, headers)
        start, end = int(byte_range[1]), min(int(byte_range[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        return self._send(206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(body, faulty=status in (200, 206))

    def _write(self, body: bytes, faulty: bool) -> None:
        fault = self.hub.fault(self.command, self.asked.path, is_in_the_body=True) if faulty else None
        if fault and fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        first = len(body) if fault is None or (fault.cut is None and fault.stall is None) else fault.cut or 0
        self._push(body[:first])
        if fault and fault.stall is not None:
            self.hub.stopping.wait(fault.stall)
            self._push(body[first:])
        elif fault and fault.cut is not None:
            self.close_connection = True

    def _push(self, part: bytes) -> None:
        """Send bytes in small parts and count them."""
        for start in range(0, len(part), 1 << 16):
            try:
                self.wfile.write(part[start : start + (1 << 16)])
            except (BrokenPipeError, ConnectionResetError):  # the client timed out
                self.close_connection = True
                return
            self.asked.sent += len(part[start : start + (1 << 16)])


def _entry(path: str, file: "File") -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return entry
