"""What a stack consists of: the servers to choose, the ports, the workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.topics import Topic
from streams.local.servers import BrokerChoice, Report, TritonChoice
from streams.local.workers import WorkerSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """What to start. Ports left None are free ones; `report` gets the lines meant for people."""

    home: Path
    topics: Sequence[Topic]
    broker: BrokerChoice = "auto"
    kafka_nodes: int = 1
    kafka_port: int | None = None
    redis_url: str | None = None  # a server of the user: none is started
    redis_port: int | None = None
    http_port: int | None = None
    triton: TritonChoice = "auto"
    model_repository: Path | None = None
    models: Sequence[str] = ("generator",)
    workers: Mapping[str, WorkerSpec] = field(default_factory=dict)
    report: Report = logger.info
