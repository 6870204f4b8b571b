"""Stand-ins for a daemon that gives one answer: root and its own user can't be refused by a real one."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aura_agent.report.wire import encode


@contextmanager
def answering(path: str, verb: str, reason: str, *, at_once: bool = False) -> Iterator[None]:
    """Listen on the socket *path*, and answer each line so; *at_once*: before the first, and hang up."""

    class Answering(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while at_once or self.rfile.readline():
                self.wfile.write(encode(verb, {"reason": reason}))
                if at_once:
                    return

    with socketserver.ThreadingUnixStreamServer(path, Answering) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()
