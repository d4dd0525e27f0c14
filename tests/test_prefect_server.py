"""What the tests ask of a Prefect server reaches it although a first request stays without an answer, or says why not."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.prefect_server import free_port, response_to

ANSWER = "HTTP/1.1 {}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"


@contextlib.contextmanager
def answering(*answers: str | None) -> Iterator[str]:
    """The address of a server that answers one request after another with these statuses, where None is silence, and then
    always with the last."""
    given, silent = [*answers], []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    connection, _ = listening.accept()
                    status = given.pop(0) if len(given) > 1 else given[0]
                    connection.recv(4096)
                    if status:
                        connection.sendall(ANSWER.format(status).encode())
                        connection.close()
                    else:
                        silent.append(connection)  # open, and never answered

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        listening.shutdown(socket.SHUT_RDWR)
    for connection in silent:
        connection.close()


@pytest.mark.parametrize(("first", "each_s", "told"), [(None, 0.1, "ReadTimeout"), ("503 busy", 30, "status 503: []")])
def test_a_request_without_an_answer_is_sent_again(first, each_s, told, capsys):
    with answering(first, "200 OK") as url:
        assert response_to("GET", url, each_s=each_s, pause_s=0).json() == []
    assert told in capsys.readouterr().out


def test_an_absence_that_lasts_ends_with_what_the_last_try_came_to():
    with answering(None) as url, pytest.raises(AssertionError, match=r"no answer to GET .* in 0\.2 s; .*ReadTimeout"):
        response_to("GET", url, within_s=0.2, each_s=0.1, pause_s=0)
    with answering("503 busy") as url, pytest.raises(AssertionError, match=r"status 503: \[\]"):
        response_to("GET", url, within_s=0.1, pause_s=0.05)
    with pytest.raises(AssertionError, match="ConnectError"):
        response_to("GET", f"http://127.0.0.1:{free_port()}/", within_s=0.1, pause_s=0.05)


def test_a_refusal_is_an_answer():
    with answering("404 Not Found") as url:
        assert response_to("GET", url).status_code == 404
