"""Local S3 server (moto) behind a front that can ignore or refuse conditional puts, or refuse every put."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.request import Request, urlopen

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

CONDITION = "HTTP_IF_NONE_MATCH"
Front = Callable[[dict[str, Any], Any, Callable[..., Any]], Any]


def honest(environ: dict[str, Any], start: Any, app: Callable[..., Any]) -> Any:
    return app(environ, start)


def forgetful(environ: dict[str, Any], start: Any, app: Callable[..., Any]) -> Any:
    """Ignore the condition of a put, so that every put succeeds."""
    environ.pop(CONDITION, None)
    return app(environ, start)


def refusing(environ: dict[str, Any], start: Any, app: Callable[..., Any]) -> Any:
    """Answer a conditional put with 501 Not Implemented."""
    if CONDITION not in environ:
        return app(environ, start)
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start("501 Not Implemented", [("Content-Type", "application/xml")])
    return [b"<Error><Code>NotImplemented</Code></Error>"]


def distrusting(environ: dict[str, Any], start: Any, app: Callable[..., Any]) -> Any:
    """Answer every put of a cell as S3 answers a wrong signature: with the signed headers in the body."""
    if environ["REQUEST_METHOD"] != "PUT" or "/cells/" not in environ["PATH_INFO"]:
        return app(environ, start)
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start("403 Forbidden", [("Content-Type", "application/xml")])
    signed = f"x-amz-security-token:{environ['HTTP_X_AMZ_SECURITY_TOKEN']}"
    return [f"<Error><CanonicalRequest>PUT {signed}</CanonicalRequest></Error>".encode()]


@contextmanager
def serve(front: Front = honest, bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Serve `s3://{bucket}/...` and yield the environment variables of its clients."""
    app = _serialize_puts(DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1", 0, lambda environ, start: front(environ, start, app), threaded=True, request_handler=_Silent
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
        urlopen(Request(f"{endpoint}/{bucket}", method="PUT")).close()
        yield {
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
        }
    finally:
        server.shutdown()
        server.server_close()


def _serialize_puts(app: Callable[..., Any]) -> Callable[..., Any]:
    """Run one put at a time: moto checks the condition of a put and stores it in two steps, which S3 does in one."""
    lock = threading.Lock()

    def serialized(environ: dict[str, Any], start: Any) -> Any:
        with lock if environ["REQUEST_METHOD"] == "PUT" else nullcontext():
            return app(environ, start)

    return serialized


class _Silent(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass
