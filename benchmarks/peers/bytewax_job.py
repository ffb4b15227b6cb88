"""The job with bytewax: `EventClock`, `TumblingWindower` and `collect_window`, snapshots in SQLite.

Its clock is one for each user: a window closes when its user comes back later than the grace, when
the wall clock has gone on for as long, or at the end of the log, which closes what is left. So the
log is read to its end, and `to_system_utc` is off: in a replay it would wake each user for ever.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
import redis
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from benchmarks.peers import job

SNAPSHOT = timedelta(seconds=5)  # as often as quixstreams; its default of 10 s outlasts some runs


class Action(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="schema", tag="user_action/1"
):
    """What the job needs of an action; `record` is the whole, as it came."""

    event_id: str
    user_id: str
    action: str
    event_time_ms: int
    item_id: str | None = None


class HistoryPartition(StatelessSinkPartition):
    """Behaviour by user in Redis, a batch of the dataflow in one round trip."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def write_batch(self, items: list[tuple[Action, bytes]]) -> None:
        """Writes a batch."""
        pipeline = self._client.pipeline(transaction=False)
        job.remember(pipeline, ((it.user_id, it.event_time_ms, value) for it, value in items))
        pipeline.execute()


class History(DynamicSink):
    """One connection a worker."""

    def __init__(self, url: str) -> None:
        self._url = url

    def build(self, step_id: str, worker_index: int, worker_count: int) -> HistoryPartition:
        """Connects."""
        return HistoryPartition(self._url)


def event_time(action: Action) -> datetime:
    """Returns the time that windows go by."""
    return datetime.fromtimestamp(action.event_time_ms / 1_000, UTC)


def triggered(closed: tuple[str, tuple[int, list[Action]]]) -> KafkaSinkMessage:
    """Returns the trigger of a closed window; windows are numbered from 1970 on."""
    user_id, (number, actions) = closed
    record = job.trigger(user_id, number * job.WINDOW_MS, actions)
    return KafkaSinkMessage(user_id.encode(), msgspec.json.encode(record))


def flow(asked: job.Job, marks: job.Marks) -> Dataflow:
    """Returns the dataflow."""
    decoder = msgspec.json.Decoder(Action)

    def decoded(message: KafkaSourceMessage) -> tuple[Action, bytes]:
        marks.began()
        return decoder.decode(message.value), message.value

    found = Dataflow("peer")
    source = KafkaSource([asked.bootstrap], [job.ACTIONS], tail=False, batch_size=job.REDIS_BATCH)
    arrived = op.map("decode", op.input("actions", found, source), decoded)
    op.output("history", arrived, History(asked.redis_url))
    chosen = op.filter("high-value", arrived, lambda pair: pair[0].action in job.HIGH_VALUE)
    keyed = op.map("by-user", chosen, lambda pair: (pair[0].user_id, pair[0]))
    clock: Any = win.EventClock(
        event_time, timedelta(milliseconds=job.GRACE_MS), to_system_utc=lambda _: None
    )
    windower = win.TumblingWindower(
        length=timedelta(milliseconds=job.WINDOW_MS), align_to=datetime(1970, 1, 1, tzinfo=UTC)
    )
    windows = win.collect_window("windows", keyed, clock, windower)
    op.output(
        "triggers",
        op.map("trigger", windows.down, triggered),
        KafkaSink([asked.bootstrap], job.TRIGGERS),
    )
    return found


def main() -> None:
    """Runs to the end of the log."""
    asked, marks = job.asked(), job.Marks()
    snapshots = asked.folder / "snapshots"
    snapshots.mkdir()
    init_db_dir(snapshots, 1)
    cli_main(flow(asked, marks), recovery_config=RecoveryConfig(snapshots), epoch_interval=SNAPSHOT)
    marks.finished()


if __name__ == "__main__":
    main()
