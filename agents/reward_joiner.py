"""The reward joiner: `impressions` and `actions` in, `rewards` out. No table, no timers.

Per partition, in this order, so that kill -9 at any instant loses nothing:
1. read impressions until enough of them wait, then pause `impressions`;
2. at a start, and where the head is older than the actions in memory, seek `actions` to its time;
3. read actions until the head is due (`RewardPartition`);
4. produce the reward events of all due heads, and await every acknowledgement;
5. commit the offset after the last joined head. A crash before it repeats the same events.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from agents.attribution import Attribution, AttributionTable
from agents.reward_partition import Joined, RewardPartition
from agents.settings import RewardConfig, Settings
from schemas import topics
from schemas.actions import ActionRecord
from schemas.codec import Decoder
from schemas.errors import InvalidRecord
from schemas.impressions import Impression
from streams import metrics
from streams.admin import check_topics
from streams.consumer import group_consumer
from streams.dead_letters import DeadLetters, Source, rejection_of
from streams.producer import Delivered, RecordProducer

GROUP = "oxygenrec-reward-joiner"
WORKER = "reward-joiner"
POLL_MS = 200
DELIVERY_TIMEOUT_MS = 120_000  # nobody waits for a reward: outlast a rolling restart
MOST_WAITING = 2_000  # impressions of a partition in memory: 10 MB; the rest waits in the log
WANTED_TOPICS = (topics.IMPRESSIONS, topics.ACTIONS, topics.REWARDS, topics.DEAD_LETTERS)

logger = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    """Returns milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def run(settings: Settings) -> None:
    """Joins until cancelled. Raises `TopicsDiffer` or `BrokerSilent` before it begins."""
    await asyncio.to_thread(check_topics, settings.kafka, WANTED_TOPICS)
    producer = RecordProducer(
        settings.kafka, "oxygenrec-reward-joiner", delivery_timeout_ms=DELIVERY_TIMEOUT_MS
    )
    consumer = group_consumer(settings.kafka, GROUP, WORKER)
    try:
        await consumer.start()
        await RewardJoiner(settings.rewards, consumer, producer).run()
    finally:
        await consumer.stop()
        await asyncio.to_thread(producer.close)


class RewardJoiner(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no annotations
    """The loop around `RewardPartition`: what is read, what is due, what is committed."""

    def __init__(
        self, config: RewardConfig, consumer: AIOKafkaConsumer, producer: RecordProducer
    ) -> None:
        self._config = config
        default = Attribution(window_ms=config.attribution_ms, mode=config.attribution)
        self._attribution = AttributionTable(default, config.by_scenario)
        self._consumer = consumer
        self._producer = producer
        self._dead_letters = DeadLetters(producer, WORKER, wall_clock_ms)
        self._partitions: dict[int, RewardPartition] = {}
        self._impressions: Decoder[Impression] = Decoder(Impression)
        self._actions: Decoder[ActionRecord] = Decoder(ActionRecord)

    async def run(self) -> None:
        """Joins until cancelled."""
        self._consumer.subscribe([topics.IMPRESSIONS, topics.ACTIONS], listener=self)
        while True:
            await self.step()

    async def step(self) -> None:
        """One round: read, seek, join what is due, produce, await, commit."""
        batches = await self._consumer.getmany(timeout_ms=POLL_MS)
        refused = [sent for tp, records in batches.items() for sent in self._take(tp, records)]
        await _acknowledged(refused)
        try:
            for number, partition in list(self._partitions.items()):
                await self._rewind(number, partition)
                await self._join(number, partition)
                self._pause_or_resume(number, partition)
        except (CommitFailedError, IllegalStateError) as error:
            # A rebalance took a partition: its new owner joins the same heads to the same events.
            logger.warning("partition lost before its commit", extra={"cause": str(error)})

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Forgets: the next owner begins at the committed head."""
        for tp in revoked:
            self._partitions.pop(tp.partition, None)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Begins at the committed heads; actions stand still until a head says from when."""
        for tp in assigned:
            self._partitions.setdefault(tp.partition, RewardPartition(self._attribution))
            if tp.topic == topics.ACTIONS:
                self._consumer.pause(tp)

    def _take(self, tp: TopicPartition, records: list[Any]) -> list[Future[Delivered]]:
        """Hands records to their partition; returns the dead letters on their way."""
        partition = self._partitions.get(tp.partition)
        if partition is None:
            return []
        metrics.CONSUMED.labels(worker=WORKER, topic=tp.topic).inc(len(records))
        sent = []
        for record in records:
            if tp.topic == topics.ACTIONS:
                self._take_action(partition, record)
            elif (refused := self._take_impression(partition, record)) is not None:
                sent.append(refused)
        return sent

    def _take_action(self, partition: RewardPartition, record: Any) -> None:
        try:
            action = self._actions.decode(record.value or b"")
        except InvalidRecord:  # the router makes it a dead letter, once
            partition.pass_position(record.timestamp)
        else:
            partition.add_action(record.timestamp, action)

    def _take_impression(self, partition: RewardPartition, record: Any) -> Future[Delivered] | None:
        try:
            impression = self._impressions.decode(record.value or b"")
        except InvalidRecord as error:
            source = Source(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=record.key,
                value=record.value,
            )
            return self._dead_letters.send(source, rejection_of(error))
        partition.add_impression(record.offset, record.timestamp, impression)
        return None

    async def _rewind(self, number: int, partition: RewardPartition) -> None:
        from_ms = partition.rewind_ms
        if from_ms is None:
            return
        tp = TopicPartition(topics.ACTIONS, number)
        # The end first: what is appended between the two requests must not be jumped over.
        end = (await self._consumer.end_offsets([tp]))[tp]
        found = (await self._consumer.offsets_for_times({tp: max(0, from_ms)}))[tp]
        self._consumer.seek(tp, end if found is None else found.offset)
        partition.rewound(from_ms)

    async def _join(self, number: int, partition: RewardPartition) -> None:
        joined = list(partition.due(await self._read_out_ms(number, partition)))
        if not joined:
            return
        events = [one.event for one in joined if one.event is not None]
        await _acknowledged(
            [self._producer.send(topics.REWARDS, event, event.request_id) for event in events]
        )
        tp = TopicPartition(topics.IMPRESSIONS, number)
        await self._consumer.commit({tp: joined[-1].offset + 1})
        _count(joined)

    async def _read_out_ms(self, number: int, partition: RewardPartition) -> int:
        """Returns the clock minus its lag where `actions` is read to its very end, else 0.

        The end is asked for after the clock has passed the head's window: what a fetch last heard
        about it may be old.
        """
        passed_ms = wall_clock_ms() - self._config.live_lag_ms
        due_ms = partition.head_due_ms
        if due_ms is None or passed_ms <= due_ms:
            return 0
        tp = TopicPartition(topics.ACTIONS, number)
        end = (await self._consumer.end_offsets([tp]))[tp]
        return passed_ms if await self._consumer.position(tp) >= end else 0

    def _pause_or_resume(self, number: int, partition: RewardPartition) -> None:
        """Impressions stand still while enough wait; actions while no impression needs them."""
        paused = self._consumer.paused()
        wanted = {
            TopicPartition(topics.IMPRESSIONS, number): len(partition) < MOST_WAITING,
            TopicPartition(topics.ACTIONS, number): len(partition) > 0,
        }
        for tp, reads in wanted.items():
            if reads and tp in paused:
                self._consumer.resume(tp)
            elif not reads and tp not in paused:
                self._consumer.pause(tp)


async def _acknowledged(sent: list[Future[Delivered]]) -> None:
    """Returns when all are acknowledged; `UndeliveredRecord` ends the worker uncommitted."""
    await asyncio.gather(*(asyncio.wrap_future(one) for one in sent))


def _count(joined: list[Joined]) -> None:
    for one in joined:
        if one.event is None:
            continue
        metrics.REWARDS.inc()
        logger.debug("reward joined", extra={"request": one.event.request_id})
        for outcome in one.event.outcomes:
            how = "inferred" if outcome.inferred else "direct"
            metrics.OUTCOMES.labels(action=outcome.action, join=how).inc()
