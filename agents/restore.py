"""Rebuilds a Redis that came back empty from the logs (FLOW, guarantee 5).

Writers wait while the key `epoch` is missing (`streams/redis_epoch.py`), so nothing newer is
overwritten. Everything is written by the stores that the workers write with, in this order:

1. `actions`: behaviour, popularity and the markers of erased users. Triggers stay off;
2. `users`: profiles that are newer than a marker;
3. `semantic-ids` and `catalog`: item rows (without a text where compaction removed the item);
4. `instructions`: the newest of each user that has not expired, erased users excepted;
5. the key `epoch`: the writers go on.

A cluster of which one master lost its memory is replayed as a whole: no log is ordered by buckets,
and the writers of all of them wait before long (decisions/0015).

What the logs no longer hold does not come back: `actions` are retained for 7 days. A restore that
was cut begins again from the start: every step is idempotent.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import redis.asyncio
from redis.exceptions import RedisError

from agents.catalog_index import decode_changes, row_of
from agents.exit_codes import ExitCode
from agents.routing import RememberedEvents, event_of
from agents.settings import Settings
from schemas import topics
from schemas.actions import ActionRecord, UserAction, UserErased
from schemas.catalog import ItemRow, SidAssignment, item_key_of
from schemas.codec import RECORDS, Decoder
from schemas.dead_letters import reject_action, reject_erasure
from schemas.errors import InvalidRecord, OxygenRecError
from schemas.instructions import ReasoningInstruction
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.admin import check_topics
from streams.catalog_snapshot import read_snapshot
from streams.dead_letters import Source
from streams.log_reader import LogReader, LogRecord
from streams.partitioner import partition_of
from streams.redis_client import router_client, worker_client
from streams.redis_epoch import Epochs
from streams.redis_history import HistoryWriter
from streams.redis_instructions import RedisInstructions
from streams.redis_items import RedisItems
from streams.redis_profiles import RedisProfiles
from streams.redis_servers import identity_of

READ = (topics.USERS, topics.SEMANTIC_IDS, topics.CATALOG, topics.ACTIONS, topics.INSTRUCTIONS)
T = TypeVar("T")
LOCK_KEY = "restoring"
LOCK_MS = 60_000  # renewed with every batch: a restore that was killed blocks the next this long

Report = Callable[[str, int, int], None]  # topic, records read, records there are

logger = logging.getLogger(__name__)


class RestoreRunning(OxygenRecError):
    """Another restore writes into this Redis."""

    exit_code = ExitCode.FAILED

    def __init__(self, *, url: str) -> None:
        self.url = url
        super().__init__(
            f"another restore writes to {url}: wait for it; one that was killed counts for"
            f" {LOCK_MS // 1000} s more"
        )


class RedisUnreachable(OxygenRecError):
    """Redis did not answer."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, url: str, cause: str) -> None:
        self.url = url
        super().__init__(f"Redis at {url} did not answer: {cause}; then `oxygenrec restore` again")


class LostMeanwhile(OxygenRecError):
    """A server of Redis was started anew, or replaced, while the logs were replayed."""

    exit_code = ExitCode.FAILED

    def __init__(self, *, url: str) -> None:
        self.url = url
        super().__init__(
            f"Redis at {url} was started anew or changed its masters during the restore, and may"
            " lack what was written before: the writers go on waiting; `oxygenrec restore` again"
        )


@dataclass(slots=True)
class Restored:
    """How much was written."""

    profiles: int = 0
    items: int = 0
    actions: int = 0
    instructions: int = 0


async def restore(settings: Settings, report: Report, *, force: bool = False) -> Restored | None:
    """Returns what was written, None where the epoch says that nothing is missing.

    `force`: replays all the same; the writers wait meanwhile. Raises `TopicsDiffer`,
    `RestoreRunning`, `LostMeanwhile`, `RedisUnreachable`, `LogReadTimeout`.
    """
    await asyncio.to_thread(check_topics, settings.kafka, READ)
    client = worker_client(settings.redis)
    try:
        epochs = Epochs(client)
        if not force and not await epochs.missing():
            return None
        if not await client.set(LOCK_KEY, 1, nx=True, px=LOCK_MS):
            raise RestoreRunning(url=settings.redis.url)
        servers = await identity_of(client)
        await epochs.end()
        done = await Restore(settings, client, report).run()
        await client.delete(LOCK_KEY)
        if await identity_of(client) != servers:
            raise LostMeanwhile(url=settings.redis.url)
        await epochs.begin(_now_ms())
    except RedisError as error:
        raise RedisUnreachable(url=settings.redis.url, cause=str(error)) from error
    finally:
        await client.aclose()
    logger.info("Redis restored", extra={"restored": done})
    return done


class Restore:
    """One run: reads each log to the end it had when its turn came."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis, report: Report) -> None:
        self._settings = settings
        self._client = client
        self._report = report
        self._done = Restored()
        self._partitions = {t.name: t.partitions for t in topic_table(settings.kafka.partitions)}

    async def run(self) -> Restored:
        """Replays the logs in their order and returns what was written."""
        await self._actions()
        await self._profiles()
        await self._items()
        await self._instructions()
        return self._done

    async def _profiles(self) -> None:
        store = RedisProfiles(self._client, restoring=True)
        decoder: Decoder[UserProfile] = Decoder(RECORDS[topics.USERS])
        async for _, records in self._read(topics.USERS):
            for record in records:
                if record.value is None:
                    await store.remove((record.key or b"").decode(errors="replace"))
                elif (profile := _decoded(decoder, record.value)) is not None:
                    self._done.profiles += await store.put(profile)

    async def _items(self) -> None:
        store = RedisItems(self._client, restoring=True)
        assignments, end = await read_snapshot(self._settings.kafka)
        known = {assignment.item_key: assignment for assignment in assignments}
        await store.put([_bare_row(assignment) for assignment in assignments])
        self._report(topics.SEMANTIC_IDS, end, end)
        async for partition, records in self._read(topics.CATALOG):
            rows: dict[int, ItemRow] = {}
            deleted: set[int] = set()
            for change in decode_changes(_sources(topics.CATALOG, partition, records))[0]:
                assigned = known.get(key := item_key_of(change.item_id))
                if assigned is None or assigned.item_id != change.item_id:
                    continue  # the indexer has not come to it, or has refused it
                if change.item is None:
                    deleted.add(key)
                else:
                    deleted.discard(key)
                    rows[key] = row_of(key, change.item)
            await store.put(list(rows.values()))
            await store.take_down(list(deleted))
        self._done.items = len(known)

    async def _actions(self) -> None:
        settings = self._settings
        with router_client(settings.redis) as client:
            writer = HistoryWriter(client, settings.router.history_length, restoring=True)
            remembered = self._settings.router.remembered_events
            seen = [RememberedEvents(remembered) for _ in range(self._partitions[topics.ACTIONS])]
            async for partition, records in self._read(topics.ACTIONS):
                admitted = self._admitted(partition, records, seen[partition])
                self._done.actions += (await asyncio.to_thread(writer.write, admitted)).fresh

    def _admitted(
        self, partition: int, records: Sequence[LogRecord], seen: RememberedEvents
    ) -> list[ActionRecord]:
        """Returns what the router put into history when it read these records."""
        decoder: Decoder[ActionRecord] = Decoder(RECORDS[topics.ACTIONS])
        partitions = self._partitions[topics.ACTIONS]
        scenarios = frozenset(self._settings.serving.scenarios)
        admitted: list[UserAction | UserErased] = []
        for record in records:
            action = _decoded(decoder, record.value or b"")
            if action is None or partition_of(action.user_id.encode(), partitions) != partition:
                continue  # a dead letter; or misrouted, and there is a copy in its own partition
            event = event_of(action)
            if isinstance(action, UserErased):
                refused = reject_erasure(action) is not None
            else:
                at_ms = record.timestamp_ms
                refused = event in seen or bool(
                    reject_action(action, now_ms=at_ms, scenarios=scenarios)
                )
            if refused:
                continue
            seen.add([event])
            admitted.append(action)
        return admitted

    async def _instructions(self) -> None:
        expires_ms = self._settings.instructions.expires_ms
        store = RedisInstructions(self._client, expires_ms, restoring=True)
        decoder: Decoder[ReasoningInstruction] = Decoder(RECORDS[topics.INSTRUCTIONS])
        async for _, records in self._read(topics.INSTRUCTIONS):
            for record in records:
                made = None if record.value is None else _decoded(decoder, record.value)
                age_ms = _now_ms() - record.timestamp_ms
                if made is not None and age_ms < expires_ms:
                    self._done.instructions += await store.write(made, max(0, age_ms))

    async def _read(self, topic: str) -> AsyncIterator[tuple[int, list[LogRecord]]]:
        """Yields (partition, records), partition after partition, each up to its present end."""
        partitions = self._partitions[topic]
        for partition in range(partitions):
            async with LogReader(self._settings.kafka, topic, partition) as log:
                earliest, end = await log.bounds()
                async for records in log.batches(earliest, end):
                    yield partition, records
                    await self._client.set(LOCK_KEY, 1, px=LOCK_MS)
                    read = records[-1].offset + 1 - earliest
                    self._report(f"{topic}[{partition}]", read, end - earliest)


def _bare_row(assignment: SidAssignment) -> ItemRow:
    return ItemRow(
        item_key=assignment.item_key,
        item_id=assignment.item_id,
        live=assignment.in_stock,
        title="",
        category="",
        scenarios=assignment.scenarios,
    )


def _sources(topic: str, partition: int, records: Sequence[LogRecord]) -> list[Source]:
    return [
        Source(topic=topic, partition=partition, offset=r.offset, key=r.key, value=r.value)
        for r in records
    ]


def _decoded(decoder: Decoder[T], value: bytes) -> T | None:
    """Returns the record, None for one that is a dead letter since."""
    try:
        return decoder.decode(value)
    except InvalidRecord:
        return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
