"""Where the servers are and how long we wait for them: one `Config` a kind of server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """Kafka's address and the partition count of topics that scale."""

    bootstrap: str = "127.0.0.1:9092"
    partitions: int = 12
    replication: int = 3
    check_crcs: bool = True  # the embedded mock broker writes none


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Redis' (or Valkey's) address.

    The edge gives it 10 ms of its 100 ms deadline (FLOW, guarantee 6).
    """

    url: str = "redis://127.0.0.1:6379/0"
    deadline_ms: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonConfig:
    """Triton's address.

    `grpc_url` empty means: the same generator class in this process (no server).
    """

    grpc_url: str = "127.0.0.1:8001"
    model: str = "generator"
    deadline_ms: int = 70
    max_in_flight: int = 64
    # A cold torch import inside a stub takes 7-16 s on two busy cores
    load_timeout_ms: int = 60_000
