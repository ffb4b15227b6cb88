"""Finds free TCP ports on loopback."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from streams.local.errors import PortInUse

LOOPBACK = "127.0.0.1"
_FIRST = 16_384  # the well-known services of developers' machines lie below
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Returns `count` different ports that nothing listens on at this moment.

    They lie below the range that the kernel takes for outgoing connections, so that none of those
    sits on a server's port before it starts or while it restarts. Only where there is no room the
    kernel chooses.
    """
    last = _first_ephemeral()
    candidates = random.sample(range(_FIRST, last), min(last - _FIRST, 50 * count))
    free: list[int] = []
    with contextlib.ExitStack() as held:  # open until the last one is bound: no port twice
        for candidate in [*candidates, *[0] * count]:
            if len(free) == count:
                break
            with contextlib.suppress(OSError):
                bound = held.enter_context(socket.create_server((LOOPBACK, candidate)))
                free.append(int(bound.getsockname()[1]))
    return free


def _first_ephemeral() -> int:
    try:
        return max(_FIRST, int(_EPHEMERAL.read_text().split()[0]))
    except OSError:
        return _FIRST


def free_port() -> int:
    """Returns one free port."""
    return free_ports(1)[0]


def choose_port(wanted: int | None, *, purpose: str) -> int:
    """Returns the wanted port if it is free, or any free one where none is wanted.

    Raises PortInUse when something listens on the wanted port.
    """
    if wanted is None:
        return free_port()
    try:
        socket.create_server((LOOPBACK, wanted)).close()
    except OSError as error:
        raise PortInUse(port=wanted, purpose=purpose) from error
    return wanted


def listening(port: int) -> bool:
    """Tells whether something accepts connections on the port within 200 ms."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=0.2).close()
    except OSError:
        return False
    return True
