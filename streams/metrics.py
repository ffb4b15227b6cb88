"""Every metric of every process in one table: `oxygenrec_*`, base units, counters end in `_total`.

A process moves its own; the others stay at nothing. Labels take few values: never users or items.
"""

import threading
from dataclasses import dataclass
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series a counter

# Goals are p50 <= 25 ms and p99 <= 80 ms, the deadline is 100 ms: the buckets stand closest there.
EDGE_SECONDS = (
    0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05,
    0.06, 0.07, 0.08, 0.09, 0.1, 0.125, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
DELAY_SECONDS = (
    0.1, 0.25, 0.5, 1, 2.5, 5, 10, 11, 12, 15, 20, 30, 60, 120, 180, 240, 300, 315, 330, 360, 600,
    1_800, 3_600,
)  # fmt: skip  # grace 10 s, window 300 s: the buckets stand closest behind them
AGE_SECONDS = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 24 * 3_600, 36 * 3_600)
WORK_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60)

# Any process with a producer or a consumer
PRODUCED = Counter("oxygenrec_produced_total", "Records acknowledged by Kafka", ["topic"])
UNDELIVERED = Counter(
    "oxygenrec_undelivered_total", "Records that Kafka did not acknowledge", ["topic"]
)
CONSUMED = Counter("oxygenrec_consumed_total", "Records read", ["worker", "topic"])
DEAD_LETTERS = Counter(
    "oxygenrec_dead_letters_total",
    "Records refused, by reason and source topic",
    ["worker", "topic", "reason"],
)
LAG = Gauge(
    "oxygenrec_lag_records", "Records behind the end of the log", ["worker", "topic", "partition"]
)

# A generator replica; Triton shows it on its own endpoint
INDEX_LAG_NAME = "oxygenrec_index_lag_seconds"
INDEX_LAG_HELP = "Seconds since a replica had applied the whole of semantic-ids"
INDEX_LAG = Gauge(INDEX_LAG_NAME, INDEX_LAG_HELP, ["policy_version"])
COMPILED_NAME = "oxygenrec_compiled_decoding"
COMPILED_HELP = "Whether a replica decodes with a compiled program: 1, or 0 eagerly"
COMPILED = Gauge(COMPILED_NAME, COMPILED_HELP, ["policy_version"])
UNKNOWN_ITEMS_NAME = "oxygenrec_unknown_history_items_total"
UNKNOWN_ITEMS_HELP = "Items of histories that a replica's index does not hold: left out"
UNKNOWN_ITEMS = Counter(UNKNOWN_ITEMS_NAME, UNKNOWN_ITEMS_HELP)

# Edge
ACTIONS = Counter(
    "oxygenrec_actions_total",
    "Actions at the edge: accepted, duplicate, rejected, unacknowledged",
    ["result"],
)
RECOMMENDATION_SECONDS = Histogram(
    "oxygenrec_recommendation_seconds", "Time to make one slate", ["scenario"], buckets=EDGE_SECONDS
)
GENERATOR_SECONDS = Histogram(
    "oxygenrec_generator_seconds", "Time of one generator call", buckets=EDGE_SECONDS
)
DEGRADED = Counter("oxygenrec_degraded_total", "Slates of popular items, by cause", ["cause"])
SLATES = Counter(
    "oxygenrec_slates_total",
    "Slates by what instructed them: own, query (its words), default, none (degraded)",
    ["instruction"],
)
INSTRUCTION_AGE_SECONDS = Histogram(
    "oxygenrec_instruction_age_seconds",
    "Age of the user's own instruction at serving, from the time that it speaks about",
    buckets=AGE_SECONDS,
)
EXPLORED = Counter("oxygenrec_explored_total", "Slates with an explored slot")
IMPRESSIONS_FAILED = Counter(
    "oxygenrec_impressions_failed_total", "Impressions that Kafka did not acknowledge"
)
SERVED_POLICY_VERSION = Gauge("oxygenrec_served_policy_version", "Policy version asked for now")

# Router and window aggregator
ROUTED = Counter("oxygenrec_routed_total", "Actions routed", ["kind"])
DUPLICATES = Counter("oxygenrec_duplicates_total", "Events seen again", ["worker"])
CONTRADICTING_HEADERS = Counter(
    "oxygenrec_contradicting_headers_total",
    "Actions whose ce_id header names another event than the body: the body counts",
)
MISROUTED = Counter("oxygenrec_misrouted_total", "Actions produced again to their key's partition")
WATERMARK_SECONDS = Gauge(
    "oxygenrec_watermark_seconds", "Watermark as unix time", ["worker", "partition"]
)
LATE_ACTIONS = Counter("oxygenrec_late_actions_total", "Actions of a window that is already closed")
OPEN_WINDOWS = Gauge("oxygenrec_open_windows", "Windows not closed yet")
WINDOWS_CLOSED = Counter("oxygenrec_windows_closed_total", "Windows closed: triggers acknowledged")
WINDOW_CLOSE_DELAY_SECONDS = Histogram(
    "oxygenrec_window_close_delay_seconds",
    "From a window's end to the acknowledgement of its trigger, the grace included",
    buckets=DELAY_SECONDS,
)
WINDOWS_ERASED = Counter(
    "oxygenrec_windows_erased_total", "Open windows dropped because their user was erased"
)

# Instruction writer and catalog indexer
INSTRUCTIONS = Counter(
    "oxygenrec_instructions_total", "Triggers: stored, superseded, failed, erased", ["result"]
)
ACTION_TO_INSTRUCTION_SECONDS = Histogram(
    "oxygenrec_action_to_instruction_seconds",
    "From a high-value action's event time until the instruction that knows of it is in Redis",
    buckets=DELAY_SECONDS,
)
REASONING_SECONDS = Histogram(
    "oxygenrec_reasoning_seconds", "Time to reason about one window", buckets=WORK_SECONDS
)
WAITING_RECORDS = Gauge(
    "oxygenrec_waiting_records", "Triggers and refreshes read and not begun", ["topic"]
)
REASONING_FALLBACKS = Counter(
    "oxygenrec_reasoning_fallbacks_total",
    "Windows that the local reasoner wrote because the model did not, by reason",
    ["reason"],
)
CHAT_CALLS = Counter("oxygenrec_chat_calls_total", "Calls of the model, by result", ["result"])
CHAT_RETRIES = Counter("oxygenrec_chat_retries_total", "Attempts after the first", ["cause"])
CHAT_SECONDS = Histogram(
    "oxygenrec_chat_seconds", "Time of one call with all its attempts", buckets=WORK_SECONDS
)
CHAT_TOKENS = Counter("oxygenrec_chat_tokens_total", "Tokens: prompt, completion", ["kind"])
CHAT_IN_FLIGHT = Gauge("oxygenrec_chat_in_flight", "Calls that hold a slot now")
ENCODER_SECONDS = Histogram(
    "oxygenrec_text_encoder_seconds", "Time of one call of Triton's encoder", buckets=EDGE_SECONDS
)
ENCODER_RETRIES = Counter(
    "oxygenrec_text_encoder_retries_total", "Calls that a worker had to repeat, by cause", ["cause"]
)
QUERIES_NOT_ENCODED = Counter(
    "oxygenrec_queries_not_encoded_total",
    "Searches served under the default because the encoder did not answer, by cause",
    ["cause"],
)
INSTRUCTIONS_REFUSED = Counter(
    "oxygenrec_instructions_refused_total", "Stored instructions not served, by cause", ["cause"]
)
PROFILES = Counter(
    "oxygenrec_profiles_total",
    "Profiles: stored, removed, refused (older than an erasure)",
    ["result"],
)
ITEMS_INDEXED = Counter("oxygenrec_items_indexed_total", "Semantic IDs published")

# Reward joiner, trainer and publisher
REWARDS = Counter("oxygenrec_rewards_total", "Impressions joined with their outcomes")
OUTCOMES = Counter("oxygenrec_outcomes_total", "Outcomes joined", ["action", "join"])
REWARD_GROUPS = Counter("oxygenrec_reward_groups_total", "Groups: used, or why not", ["result"])
TRAINING_STEPS = Counter("oxygenrec_training_steps_total", "Optimiser steps")
TRAINING_SECONDS = Histogram(
    "oxygenrec_training_step_seconds", "Time of one optimiser step", buckets=WORK_SECONDS
)
LOGPROB_MISMATCH = Histogram(
    "oxygenrec_logprob_mismatch",
    "Largest |served - recomputed| log-prob of a group",
    buckets=(1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.5),
)
LOGPROB_MISMATCH_MAX = Gauge(
    "oxygenrec_policy_logprob_mismatch_max", "Largest |served - recomputed| log-prob of used groups"
)
POLICY_OBJECTIVE = Gauge("oxygenrec_policy_objective", "Objective J of the last step's groups")
POLICY_KL = Gauge("oxygenrec_policy_kl", "Distance to the offline model on the last step's members")
PUBLISHED_POLICY_VERSION = Gauge("oxygenrec_published_policy_version", "Newest published version")
PUBLICATIONS = Counter("oxygenrec_publications_total", "Publications, by result", ["result"])


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running exposition endpoint; `port` is the real one where 0 was asked for."""

    port: int
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stops answering and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def serve(port: int, host: str = "127.0.0.1") -> MetricsServer:
    """Answers `GET /metrics` on its own thread. Raises OSError when the port is taken."""
    server, thread = start_http_server(port, addr=host)
    return MetricsServer(server.server_port, server, thread)


def exposition() -> bytes:
    """Returns the metrics of this process in Prometheus' text format."""
    return generate_latest(REGISTRY)
