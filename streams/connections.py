"""Where the servers are and how long we wait for them: one `Config` a kind of server."""

from dataclasses import dataclass

# aiokafka looks for a partition's first offset at the leader it knows, and does not ask for another
# when that one has lost it: after a broker's stall a partition without a committed offset stood
# still for the default of 5 minutes (docs/reliability.md).
METADATA_MAX_AGE_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """Kafka's address and the partition count of topics that scale."""

    bootstrap: str = "127.0.0.1:9092"
    partitions: int = 12
    replication: int = 3
    check_crcs: bool = True  # the embedded mock broker writes none
    # A name that stays with this process through restarts, as that of a pod in a StatefulSet. Only
    # there: until its session ends nobody else reads the partitions of a member that does not come
    # back under its name (docs/decisions/0018).
    instance_id: str = ""

    def group_instance_id(self, worker: str) -> str | None:
        """Returns the name by which a consumer group knows this worker again; None: by none."""
        return f"{worker}-{self.instance_id}" if self.instance_id else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConfig:
    """Redis' (or Valkey's) address: one server, `redis+sentinel://host:port,.../master`, or
    `redis+cluster://host:port,...`.

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
    encoder_model: str = "text_encoder"  # a version of it a generation whose encoder needs torch
    deadline_ms: int = 70
    max_in_flight: int = 64
    # A cold torch import inside a stub takes 7-16 s on two busy cores
    load_timeout_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """An OpenAI-compatible endpoint: its base address (`http://host:8000/v1`), a model, a limit.

    An empty `url` means that there is none. The deadline holds for all attempts together. The token
    budget counts prompts and replies; beyond it the local reasoner writes.
    """

    url: str = ""
    api_key: str = ""
    model: str = ""
    deadline_ms: int = 8_000
    in_flight: int = 64
    attempts: int = 4
    max_tokens: int = 160  # a reply of 400 characters has about 100
    tokens_per_minute: int = 600_000
    structured: bool = True  # ask the server to hold the model to the answer's JSON Schema
