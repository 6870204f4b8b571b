"""A TCP proxy that does to connections what bad networks do. ``heal`` makes it a good one and cuts what it had spoilt."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

_STEP_S = 0.02


class Fault(StrEnum):
    """What becomes of each new connection."""

    NONE = "none"
    RESET = "reset at once"
    RESET_MIDWAY = "reset once the request is through"
    HALF_OPEN = "taken, and then nothing"
    SWALLOWED = "the request goes through, its answer doesn't"
    SLOW_LORIS = "an answer of one byte at a time, without end"
    DELAY = "everything is late"
    LOSS = "each connection lives or dies at random"


@dataclass
class FaultProxy:
    """Stands before *target*; *connections* counts those made so far, *spoilt* those that met a fault."""

    target: int
    rng: random.Random
    port: int = 0
    fault: Fault = Fault.NONE
    connections: int = 0
    spoilt: int = 0
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    def heal(self) -> None:
        self.fault = Fault.NONE
        for talk in self._talks:
            talk.cancel()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault = self.fault
        if fault is Fault.LOSS:
            fault = self.rng.choice([Fault.NONE, Fault.RESET, Fault.RESET_MIDWAY, Fault.DELAY])
        talk = asyncio.current_task()
        assert talk is not None
        if fault is not Fault.NONE:
            self.spoilt += 1
            self._talks.add(talk)
        try:
            await self._converse(fault, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._talks.discard(talk)
            _reset(writer)

    async def _converse(self, fault: Fault, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault is Fault.RESET:
            return
        if fault is Fault.HALF_OPEN:
            await asyncio.Event().wait()
        if fault is Fault.SLOW_LORIS:
            writer.write(b"HTTP/1.1 200 OK"[:8])
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(_STEP_S)
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            upwards = asyncio.create_task(_pump(reader, back, delay_s=0.2 if fault is Fault.DELAY else 0.0))
            if fault in (Fault.RESET_MIDWAY, Fault.SWALLOWED):
                await there.read(1)  # the server has taken the request, and begins to answer
                if fault is Fault.SWALLOWED:
                    await asyncio.Event().wait()
                return
            await _pump(there, writer)
            await upwards
        finally:
            upwards.cancel()
            back.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float = 0.0) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            await asyncio.sleep(delay_s)
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def fault_proxy(target: int, seed: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy before *target*, a port of this host."""
    proxy = FaultProxy(target, random.Random(seed))
    talks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(proxy.converse(reader, writer))
        talks.add(talk)
        talk.add_done_callback(talks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
