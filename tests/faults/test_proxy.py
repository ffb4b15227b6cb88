"""The network of the runs: what it holds back arrives later, in order, on the same connection."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streams.local.ports import LOOPBACK, free_ports
from tests.faults.proxy import Proxy


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets, for two connections."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while got := connection.recv(1_024):
                    connection.sendall(got)

        threads = [threading.Thread(target=serve, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        yield listener.getsockname()[1]


def test_a_held_network_keeps_connections_and_bytes_and_gives_no_error() -> None:
    [port] = free_ports(1)
    with (
        echo() as server,
        Proxy({port: server}) as network,
        socket.create_connection((LOOPBACK, port), timeout=5) as client,
    ):
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        network.hold()
        client.settimeout(0.3)
        client.sendall(b"two")
        with pytest.raises(TimeoutError):
            client.recv(3)
        with socket.create_connection((LOOPBACK, port), timeout=0.3) as newcomer:
            newcomer.sendall(b"new")
            with pytest.raises(TimeoutError):
                newcomer.recv(3)
            network.release()
            newcomer.settimeout(5)
            assert newcomer.recv(3) == b"new"
        client.settimeout(5)
        assert client.recv(3) == b"two"


def test_who_is_not_there_is_told_by_an_end() -> None:
    port, nobody = free_ports(2)
    with Proxy({port: nobody}), socket.create_connection((LOOPBACK, port), timeout=5) as client:
        assert client.recv(1) == b""
