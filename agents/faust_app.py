"""The Faust application of the window aggregator: explicit names, settings with their reasons.

Faust derives what is not named from module paths; here every app, agent, table, topic and group has
its own name, and the changelog topic follows from two of them: `{app}-{table}-changelog`.
"""

from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from mode.services import WaitResults
from mode.utils.queues import FlowControlEvent

from schemas import topics
from streams.connections import METADATA_MAX_AGE_MS, KafkaConfig

APP = "oxygenrec-window-aggregator"  # the consumer group too
TABLE = "windows"


class SteadyFlow(FlowControlEvent):
    """Flow control that throws nothing away when it is resumed while it flows.

    After a recovery Faust 0.15 resumes twice, and each time empties the queues: what was fetched in
    between is lost (7 of 2,000 records, seen on a busy machine).
    """

    def resume(self) -> None:
        """Resumes, and empties the queues of what an older generation left, once."""
        if not self.is_active():
            super().resume()


class Asked:
    """The partitions that a fetch under way may bring, as they are at each moment.

    Faust 0.15 hands over the set itself and empties it when partitions move; an empty set is all
    partitions to aiokafka. What such a fetch brought, Faust threw away: rows of the changelog, for
    which the recovery then waited for ever (decisions/0006). This is never empty.
    """

    def __init__(self, partitions: Set[TP]) -> None:
        self._partitions = partitions

    def __contains__(self, partition: object) -> bool:
        return partition in self._partitions


class DirectConsumer(Consumer):
    """Fetches what is asked for, and hands a record over in the task that fetched it.

    Faust 0.15 starts four tasks a record, so as to drop a delivery that still waits when partitions
    move. While records flow a delivery waits for a full queue at most, which the agent empties; a
    revocation clears it, and a stop cancels this task.
    """

    async def _getmany(self, active_partitions: Set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109  Faust's signature
        """Fetches records of active partitions alone, also of those that become it meanwhile."""
        asked: Any = None if active_partitions is None else Asked(active_partitions)
        return await super()._getmany(asked, timeout)

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109  mode's signature
        """Awaits a delivery, the first of two, or whatever is the first to be done."""
        stops = self.suspend_flow.is_set() or self.should_stop
        if stops or len(coros) != 2 or not self.app.flow_control.is_active():
            return await super().wait_first(*coros, timeout=timeout)
        delivery, suspended = coros
        suspended.close()
        return WaitResults([delivery], [await delivery], stopped=False)


def build_app(kafka: KafkaConfig, data_directory: Path) -> faust.App:
    """Returns the app; nothing is connected yet. `data_directory` stays empty (memory store)."""
    app = faust.App(
        APP,
        broker=[f"kafka://{address}" for address in kafka.bootstrap.split(",")],
        store="memory://",
        datadir=str(data_directory),
        topic_partitions=kafka.partitions,
        topic_allow_declare=False,  # the application never creates topics: `check_topics` asked
        topic_disable_leader=True,
        table_standby_replicas=0,  # a standby needs a store on disk
        broker_check_crcs=kafka.check_crcs,
        broker_session_timeout=10.0,  # a killed worker's partitions move after this long
        broker_heartbeat_interval=3.0,
        broker_commit_interval=0.2,
        stream_wait_empty=True,  # a rebalance waits until the events in hand are acknowledged
        stream_recovery_delay=0.0,  # Faust's default waits 3 s after each rebalance
        consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
        consumer_group_instance_id=kafka.group_instance_id("window-aggregator"),
        producer_acks=-1,
        web_enabled=False,
    )
    app.flow_control = SteadyFlow()
    app.transport.Consumer = DirectConsumer  # type: ignore[misc]  # this app's alone
    return app


def build_table(app: faust.App) -> Any:
    """Returns the one table: Faust restores it, the lanes write its data and its changelog.

    Its rows are bytes: the codec, not Faust, knows their schema.
    """
    table = app.Table(TABLE, partitions=app.conf.topic_partitions, key_type=bytes, value_type=bytes)
    derived = table.changelog_topic.get_topic_name()
    if derived != topics.WINDOW_CHANGELOG:
        raise RuntimeError(f"found changelog {derived}, wanted {topics.WINDOW_CHANGELOG}")
    return table


def bytes_topic(app: faust.App, name: str) -> Any:
    """Returns a topic whose keys and values stay bytes, whatever is in them.

    Faust's default would read each value as JSON first, and keep what is none from us.
    """
    raw = "raw"
    return app.topic(
        name,
        key_type=bytes,
        value_type=bytes,
        key_serializer=raw,
        value_serializer=raw,
        allow_empty=True,
    )


def on_assignment(app: faust.App, handler: Callable[[set[int]], None]) -> None:
    """Calls `handler` with the partitions of `high-value-actions` after each assignment."""

    @app.on_partitions_assigned.connect(weak=False)
    async def assigned(app: faust.App, assigned: set[Any], **_: Any) -> None:
        handler({tp.partition for tp in assigned if tp.topic == topics.HIGH_VALUE_ACTIONS})
