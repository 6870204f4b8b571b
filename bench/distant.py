"""A service for peers at a distance: answers every HTTP request well, *delay_s* after it came."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@contextmanager
def distant_service(delay_s: float) -> Iterator[int]:
    """Serve on loopback in the block; its value is the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, delay_s), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, which then ends


def _serve(listening: socket.socket, delay_s: float) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, delay_s), daemon=True).start()


def _answer(connection: socket.socket, delay_s: float) -> None:
    with connection:
        connection.recv(65536)
        time.sleep(delay_s)
        connection.sendall(_ANSWER)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
