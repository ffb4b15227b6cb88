"""What the verbs that speak to Kafka share: which broker, and options with a grammar."""

import re
from datetime import UTC, datetime
from pathlib import Path

from agents.exit_codes import ExitCode
from agents.settings import Settings
from schemas.errors import OxygenRecError
from streams.connections import KafkaConfig
from streams.local.errors import NotRunning
from streams.local.state import read_state

UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO = re.compile(r"(\d{1,9})([smhd])")


class InvalidOption(OxygenRecError):
    """An option whose text is not what the option wants."""

    exit_code = ExitCode.USAGE

    def __init__(self, *, option: str, found: str, wanted: str) -> None:
        self.option = option
        self.found = found
        self.wanted = wanted
        super().__init__(f"option {option}: found {found}, wanted {wanted}")


def kafka_of(settings: Settings) -> KafkaConfig:
    """Returns the broker that the settings name, else the one of the stack that runs here."""
    if settings.kafka != KafkaConfig():
        return settings.kafka
    try:
        addresses = read_state(Path(settings.paths.home)).addresses
    except NotRunning:
        return settings.kafka
    return KafkaConfig(
        bootstrap=addresses.kafka_bootstrap,
        partitions=addresses.kafka_partitions,
        replication=addresses.kafka_replication,
        check_crcs=addresses.kafka_check_crcs,
    )


def time_in(option: str, text: str | None, now_ms: int) -> int | None:
    """Returns a time in ms: `2h` ago, or ISO 8601 (UTC where it names no zone).

    Raises `InvalidOption`.
    """
    if text is None:
        return None
    if match := _AGO.fullmatch(text):
        return now_ms - int(match[1]) * UNIT_MS[match[2]]
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        wanted = "a span such as 30m, 2h, 7d, or a time such as 2026-01-31T08:00"
        raise InvalidOption(option=option, found=text, wanted=wanted) from error
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000)


def shown(value: bytes, limit: int) -> str:
    """Returns bytes from outside as one line that cannot steer a terminal."""
    text = value.decode(errors="backslashreplace")
    safe = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return "".join(safe) + ("..." if len(text) > limit else "")
