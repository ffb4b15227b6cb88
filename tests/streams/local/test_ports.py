"""Free ports, and the error for one that is taken."""

import socket

import pytest

from streams.local import ports as ports_module
from streams.local.errors import PortInUse
from streams.local.ports import LOOPBACK, choose_port, free_ports, listening


def test_free_ports_are_all_different_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        socket.create_server((LOOPBACK, port)).close()


def test_outgoing_connections_never_sit_on_a_port_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    first_ephemeral = ports_module._first_ephemeral()
    if first_ephemeral > 17_000:
        assert all(port < first_ephemeral for port in free_ports(50))
    monkeypatch.setattr(ports_module, "_first_ephemeral", lambda: ports_module._FIRST)
    assert len(set(free_ports(5))) == 5  # no room below: the kernel chooses


def test_a_wanted_port_that_is_taken_is_named_with_the_command_that_finds_its_holder() -> None:
    with socket.create_server((LOOPBACK, 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortInUse) as raised:
            choose_port(port, purpose="Redis")
    assert raised.value.port == port
    assert f"port {port} for Redis is in use" in str(raised.value)
    assert "ss -ltnp" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wanted_port_that_is_free_is_taken_as_it_is() -> None:
    port = free_ports(1)[0]
    assert choose_port(port, purpose="Kafka") == port


def test_listening_tells_an_open_port_from_a_closed_one() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        assert listening(port)
    assert not listening(port)
