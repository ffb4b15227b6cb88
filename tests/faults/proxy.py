"""A network that can stand still: loopback ports that lead to others until they are held.

While it is held nothing is forwarded in either direction, not even an end; connections stay open
and new ones are accepted, as by a switch that drops every packet: nobody gets an error at once.
"""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from types import TracebackType
from typing import Self

from streams.local.ports import LOOPBACK

CHUNK_BYTES = 65_536
STARTS_WITHIN_S = 10.0


class Proxy:
    """Forwards each listening port to its server, on a thread and a loop of its own."""

    def __init__(self, servers: Mapping[int, int]) -> None:
        """`servers`: by listening port, the port that it leads to."""
        self._servers = servers
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._ended = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(STARTS_WITHIN_S):
            raise TimeoutError(f"nothing listens on {sorted(self._servers)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def hold(self) -> None:
        """Forwards nothing any more."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def release(self) -> None:
        """Forwards again, beginning with what was held."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())  # what is still open then is cancelled

    async def _serve(self) -> None:
        self._flows.set()
        listeners = [
            await asyncio.start_server(partial(self._connected, server), LOOPBACK, port)
            for port, server in self._servers.items()
        ]
        self._listening.set()
        await self._ended.wait()
        for listener in listeners:
            listener.close()

    async def _connected(
        self, server: int, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        # The loop's end is no error: asyncio 3.11 would ask a cancelled task for its exception.
        with suppress(OSError, asyncio.CancelledError), closing(to_client):
            await self._flows.wait()
            answers, to_server = await asyncio.open_connection(LOOPBACK, server)
            there, back = self._pump(client, to_server), self._pump(answers, to_client)
            await asyncio.gather(there, back)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Passes bytes on until one side ends; an end is held like all else."""
        try:
            with suppress(OSError):
                while chunk := await source.read(CHUNK_BYTES):
                    await self._flows.wait()
                    sink.write(chunk)
                    await sink.drain()
            await self._flows.wait()
        finally:
            sink.close()
