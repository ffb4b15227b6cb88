"""Our part of a local stack: the workers' commands, their settings, the addresses a stack chose."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from agents.settings import PREFIX, Settings
from schemas.topics import topic_table
from streams.local.spec import StackSpec
from streams.local.state import Addresses
from streams.local.workers import WorkerSpec

# Chosen by the stack and handed over with its addresses; a second value would contradict them.
ADDRESSES = frozenset({"paths", "kafka", "redis.url", "http.port", "triton.grpc_url"})
EDGE_READY_TIMEOUT_S = 90.0  # in process it imports torch and loads the weights first
WORKER_READY_TIMEOUT_S = 60.0


def stack_spec(settings: Settings, **chosen: Any) -> StackSpec:
    """Returns the servers of one stack in `paths.home`; `chosen` are fields of `StackSpec`."""
    topics = topic_table(settings.kafka.partitions)
    # Triton starts empty, while a generation is trained: the publisher loads version 1.
    return StackSpec(home=Path(settings.paths.home), topics=topics, models=(), **chosen)


def worker_specs(settings: Settings, names: Iterable[str]) -> dict[str, WorkerSpec]:
    """Returns how to start workers: this Python, `oxygenrec worker NAME`, the given settings."""
    environment = environment_of(settings)
    return {name: _worker_spec(name, environment) for name in names}


def settings_at(settings: Settings, addresses: Addresses, home: Path) -> Settings:
    """Returns the settings with the addresses that a running stack chose."""
    kafka = replace(
        settings.kafka,
        bootstrap=addresses.kafka_bootstrap,
        partitions=addresses.kafka_partitions,
        replication=addresses.kafka_replication,
        check_crcs=addresses.kafka_check_crcs,
    )
    return replace(
        settings,
        paths=replace(settings.paths, home=str(home)),
        kafka=kafka,
        redis=replace(settings.redis, url=addresses.redis_url),
        triton=replace(settings.triton, grpc_url=addresses.triton_grpc_url),
        http=replace(settings.http, port=addresses.http_port),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """Returns the settings that differ from the defaults as environment variables, no addresses."""
    return {
        f"{PREFIX}{section}__{name}".upper(): _text(value)
        for section, name, value in _changed(settings)
        if not {section, f"{section}.{name}"} & ADDRESSES
    }


def _changed(settings: Settings) -> Iterator[tuple[str, str, Any]]:
    defaults, given = asdict(Settings()), asdict(settings)
    for section in fields(Settings):
        for name, value in given[section.name].items():
            if value != defaults[section.name][name]:
                yield section.name, name, value


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _worker_spec(name: str, environment: dict[str, str]) -> WorkerSpec:
    edge = name == "edge"
    return WorkerSpec(
        argv=[sys.executable, "-m", "agents.cli", "worker", name],
        env=environment,
        ready="{http_url}/readyz" if edge else None,
        ready_timeout_s=EDGE_READY_TIMEOUT_S if edge else WORKER_READY_TIMEOUT_S,
        url="{http_url}" if edge else "",
    )
