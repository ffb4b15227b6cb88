"""The job as a loop by hand: aiokafka, windows in dicts, uvloop, records decoded by msgspec.

At least once: what is committed lies in front of the oldest open window, and a start reads on from
there. It is what a loop without a state store can do: windows that had closed behind that offset
are begun again and may send a second trigger with a part of their actions.
"""

import asyncio
from collections import defaultdict

import msgspec
import redis.asyncio
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from benchmarks.peers import job

POLL_MS = 100


class Action(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="schema", tag="user_action/1"
):
    """What the job needs of an action."""

    event_id: str
    user_id: str
    action: str
    event_time_ms: int
    item_id: str | None = None


class Windows:
    """The open windows of a partition: by start, then by user."""

    def __init__(self) -> None:
        self._watermark_ms = 0
        self._open: dict[int, dict[str, list[Action]]] = {}
        self._first_offset: dict[int, int] = {}
        self._next_offset = 0

    def observe(self, action: Action, offset: int) -> None:
        """Takes in one action; every action brings time on."""
        self._next_offset = offset + 1
        self._watermark_ms = max(self._watermark_ms, action.event_time_ms)
        start_ms = job.window_start_ms(action.event_time_ms)
        if action.action not in job.HIGH_VALUE or self._is_due(start_ms):
            return
        if start_ms not in self._open:
            self._open[start_ms] = defaultdict(list)
            self._first_offset[start_ms] = offset
        self._open[start_ms][action.user_id].append(action)

    def close(self) -> list[tuple[str, bytes]]:
        """Returns user and trigger of the windows that are due, and forgets them."""
        found = []
        for start_ms in [start_ms for start_ms in self._open if self._is_due(start_ms)]:
            del self._first_offset[start_ms]
            for user_id, actions in self._open.pop(start_ms).items():
                actions.sort(key=lambda action: action.event_time_ms)
                trigger = job.trigger(user_id, start_ms, actions)
                found.append((user_id, msgspec.json.encode(trigger)))
        return found

    def safe_offset(self) -> int:
        """Returns from where a start must read again."""
        return min(self._first_offset.values(), default=self._next_offset)

    def _is_due(self, start_ms: int) -> bool:
        return start_ms + job.WINDOW_MS + job.GRACE_MS <= self._watermark_ms


async def run(asked: job.Job, marks: job.Marks) -> None:
    """Runs until so many actions are done."""
    consumer = AIOKafkaConsumer(
        job.ACTIONS,
        bootstrap_servers=asked.bootstrap,
        group_id="peer",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=asked.bootstrap, enable_idempotence=True, linger_ms=1
    )
    client = redis.asyncio.Redis.from_url(asked.redis_url)
    await consumer.start()
    await producer.start()
    windows: dict[TopicPartition, Windows] = defaultdict(Windows)
    done = 0
    try:
        while done < asked.actions:
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=job.REDIS_BATCH)
            if batches:
                marks.began()
                done += await step(batches, windows, client, producer)
                await consumer.commit({tp: windows[tp].safe_offset() for tp in batches})
    finally:
        await consumer.stop()
        await producer.stop()
        await client.aclose()


async def step(
    batches: dict[TopicPartition, list[ConsumerRecord]],
    windows: dict[TopicPartition, Windows],
    client: redis.asyncio.Redis,
    producer: AIOKafkaProducer,
) -> int:
    """Does one batch: history, then triggers, each acknowledged; returns how many actions."""
    history = []
    for tp, records in batches.items():
        for record in records:
            action = decoder.decode(record.value)
            history.append((action.user_id, action.event_time_ms, record.value))
            windows[tp].observe(action, record.offset)
    pipeline = client.pipeline(transaction=False)
    job.remember(pipeline, history)
    await pipeline.execute()
    sent = [
        await producer.send(job.TRIGGERS, value, user_id.encode())
        for tp in batches
        for user_id, value in windows[tp].close()
    ]
    await asyncio.gather(*sent)
    return len(history)


decoder = msgspec.json.Decoder(Action)

if __name__ == "__main__":
    all_marks = job.Marks()
    uvloop.run(run(job.asked(), all_marks))
    all_marks.finished()
