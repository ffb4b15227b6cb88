"""The job with quixstreams: one `StreamingDataFrame`, state in RocksDB and a changelog topic.

Windows close by partition, as ours do; by key, its default, a window stays open until its own user
comes back. History is a `BatchingSink`: written at each checkpoint, before the offsets are
committed. A checkpoint every 5 s is its default; ours writes history every 2,000 actions, and so
does a second row of it.
"""

from typing import Any

import orjson
import redis
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.peers import job

CHECKPOINT_S = 5.0  # its default
SOON_S = 0.5  # of several processes: the end of the log is seen by what they have committed


class History(BatchingSink):
    """Behaviour by user in Redis."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client = redis.Redis.from_url(url)

    def write(self, batch: SinkBatch) -> None:
        """Writes what a checkpoint has gathered of one partition."""
        for chunk in batch.iter_chunks(job.REDIS_BATCH):
            pipeline = self._client.pipeline(transaction=False)
            job.remember(
                pipeline,
                (
                    (item.value["user_id"], item.value["event_time_ms"], orjson.dumps(item.value))
                    for item in chunk
                ),
            )
            pipeline.execute()


def event_time_ms(value: Any, headers: Any, timestamp: int, timestamp_type: Any) -> int:
    """Returns the time that windows go by."""
    return int(value["event_time_ms"])


def trigger(value: Any, key: Any, timestamp: int, headers: Any) -> dict[str, Any]:
    """Returns the trigger of a closed window."""
    return job.trigger(value["value"][0]["user_id"], value["start"], value["value"])


def main() -> None:
    """Runs until so many actions are done, or SIGTERM."""
    asked, marks = job.asked(), job.Marks()
    done = 0

    def processed(topic: str, partition: int, offset: int) -> None:
        nonlocal done
        marks.began()
        done += 1
        if done == asked.actions:
            app.stop()

    app = Application(
        broker_address=asked.bootstrap,
        consumer_group="peer",
        auto_offset_reset="earliest",
        commit_interval=CHECKPOINT_S if asked.actions else SOON_S,
        commit_every=asked.commit_every,
        state_dir=asked.folder / "state",
        loglevel="WARNING",
        on_message_processed=processed,
    )
    actions = app.topic(job.ACTIONS, timestamp_extractor=event_time_ms)
    triggers = app.topic(job.TRIGGERS)
    frame = app.dataframe(actions)
    frame.sink(History(asked.redis_url))
    frame = frame.filter(lambda action: action["action"] in job.HIGH_VALUE)
    frame = frame.tumbling_window(job.WINDOW_MS, job.GRACE_MS, name="windows").collect()
    frame = frame.final(closing_strategy="partition").apply(trigger, metadata=True)
    frame.to_topic(triggers)
    app.run()
    marks.finished()


if __name__ == "__main__":
    main()
