"""One ping inside network and mount namespaces of its own, where name servers and routes are as bad as a test wants.

    unshare --net --mount python -m tests.faults.namespace SCENARIO DIRECTORY

Prints what came of it: the status, or the trouble. DIRECTORY takes the files that stand in for those of /etc.
"""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from aura_agent.delivery.post import build_http, post_ping
from aura_agent.secret import Secret
from tests.api.raw_server import answer, serving

NAME = "aura.test"
_SLOW_S = 1.0
_A, _SERVFAIL = 1, 2


def _mount(path: str, content: str, directory: Path) -> None:
    stand_in = directory / Path(path).name
    stand_in.write_text(content)
    subprocess.run(["mount", "--bind", str(stand_in), path], check=True)


def _name_server(scenario: str) -> None:
    """Answer name queries on port 53, each as the scenario says: NAME is 127.0.0.1."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 53))

    def serve() -> None:
        while True:
            query, asker = bound.recvfrom(1000)
            question = query[12 : query.index(b"\0", 12) + 5]
            if scenario == "silent":
                continue
            if scenario == "slow":
                time.sleep(_SLOW_S)
            wants_a = question[-3] == _A
            found = scenario == "slow" and wants_a
            code = _SERVFAIL if scenario == "broken" else 0
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("127.0.0.1")
            counts = b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
            bound.sendto(query[:2] + bytes([0x81, 0x80 | code]) + counts + question + (record if found else b""), asker)

    threading.Thread(target=serve, daemon=True).start()


async def _ping() -> str:
    async with serving(answer(200)) as server, build_http() as http:
        url = Secret(f"http://{NAME}:{server.port}/ping/key")
        sent = await post_ping(http, url, None, allow_insecure=True)
    return f"{sent.status} {sent.error}"


def main(scenario: str, directory: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    hosts = "127.0.0.1 localhost\n"
    if scenario == "ipv6 black hole":
        # Nobody answers at the other end of this cable.
        cable = ("link add hole type veth peer name end", "link set end up", "link set hole up")
        for command in (*cable, "addr add fd00::2/64 dev hole nodad"):
            subprocess.run(["ip", *command.split()], check=True)
        hosts += f"fd00::1 {NAME}\n127.0.0.1 {NAME}\n"
    _mount("/etc/hosts", hosts, directory)
    _mount("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n", directory)
    _name_server(scenario)
    print(asyncio.run(_ping()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
