"""Commands and webhooks that accept an alert, refuse it, hang or break the protocol."""

import json
import socket
import threading
import time

import pytest

from pipeline.errors import UsageError
from pipeline.watch import notifier
from pipeline.watch.alerts import Alert
from pipeline.watch.notifier import check_target, send_alert

ALERT = Alert("c-1", "/runs/mine", "id_mle@blocks>4", "mine", "checkpoint-600", 600, 20.0, 9.5)


@pytest.fixture
def served():
    """Server that answers one request with the given bytes; `start` returns its address and the request."""
    received: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def start(answer: bytes) -> tuple[str, list[bytes]]:
        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"}" not in b"".join(received):
                    received.append(connection.recv(65536))
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/alert", received

    yield start
    server.close()


def test_a_webhook_is_sent_the_alert_with_its_id(served):
    address, received = served(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert send_alert(ALERT, address) is None
    head, body = b"".join(received).split(b"\r\n\r\n")
    assert head.startswith(b"POST /alert ")
    assert json.loads(body) == ALERT._asdict()
    assert json.loads(body)["id"] == "c-1"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "RemoteDisconnected"),
        (b"what?\r\n\r\n", "BadStatusLine"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "500"),
    ],
)
def test_a_webhook_that_breaks_is_a_problem_and_no_error(served, answer, says):
    address, _ = served(answer)
    assert says in (send_alert(ALERT, address) or "")


def test_nobody_at_the_address_is_a_problem_and_no_error():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in (send_alert(ALERT, f"http://127.0.0.1:{port}") or "")


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(notifier, "DELIVERY_TIMEOUT_S", 0.2)
    assert "did not end within 0.2 s" in (send_alert(ALERT, f"(sleep 0.6; touch {tmp_path}/late) & sleep 5") or "")
    time.sleep(0.7)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("good", ["https://host/path?key=1", "HTTP://[::1]:8080", "true now", "cat http://a b"])
def test_addresses_and_commands_are_taken(good):
    check_target(good)


@pytest.mark.parametrize("bad", ["http://", "http://host:port/", "https://a host/", "http://höst/", "http://[::1"])
def test_what_is_no_address_is_refused_in_two_lines(bad):
    with pytest.raises(UsageError, match="--on-alert") as error:
        check_target(bad)
    assert len(str(error.value).splitlines()) == 2
