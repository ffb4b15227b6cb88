"""The near-line path on real Kafka and Redis: each arrow by its effect, poison beside the good."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import redis

from models.reasoning.item_text import item_text
from models.reasoning.text_encoder import CharacterEncoder
from models.vectors import pack
from schemas import topics
from schemas.actions import ActionType, HighValueRecord, UserAction, UserErased
from schemas.catalog import SidAssignment, item_key_of
from schemas.codec import RECORDS, Decoder
from schemas.dead_letters import DeadLetter, Reason
from schemas.instructions import InstructionKind, InstructionTrigger, ReasoningInstruction
from schemas.topics import topic_table
from schemas.users import UserProfile
from streams.connections import KafkaConfig, RedisConfig
from streams.local.kafka import LocalKafka
from streams.local.redis_server import LocalRedis
from streams.partitioner import partition_of
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch
from tests.agents.near_line import (
    ITEMS,
    PARTITIONS,
    Logs,
    WorkerProcess,
    eventually,
    fit_generation,
    worker_environment,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

HIGH_VALUE: Decoder[HighValueRecord] = Decoder(RECORDS[topics.HIGH_VALUE_ACTIONS])
TRIGGER: Decoder[InstructionTrigger] = Decoder(InstructionTrigger)
# `detail` has a policy of its own: an order, and every click on an item from the second on
POLICY = {"OXYGENREC_ROUTER__BY_SCENARIO": '{"detail": {"actions": ["order"], "clicks": 2}}'}
NAMES = ("router", "window-aggregator", "instruction-writer", "catalog-indexer")


@dataclass
class NearLine:
    """The running workers and what they are tested through."""

    workers: dict[str, WorkerProcess]
    producer: RecordProducer
    logs: Logs
    redis: redis.Redis
    environment: dict[str, str]

    def act(self, user: str, event: str, kind: ActionType, **fields: object) -> None:
        values = {"item_id": "item-0"} | fields
        action = UserAction(
            event_id=event,
            user_id=user,
            action=kind,
            event_time_ms=time.time_ns() // 1_000_000,
            **values,  # type: ignore[arg-type]
        )
        self.producer.send(topics.ACTIONS, action, user)

    def instruction(self, user: str) -> ReasoningInstruction | None:
        record = self.redis.hget(f"instruction:1:{user}", "record")
        return (
            msgspec.json.decode(record, type=ReasoningInstruction)
            if isinstance(record, bytes)
            else None
        )

    def dead(self) -> list[DeadLetter]:
        decoder: Decoder[DeadLetter] = Decoder(RECORDS[topics.DEAD_LETTERS])
        [messages] = self.logs.read(topics.DEAD_LETTERS, partitions=1)
        return [decoder.decode(m.value() or b"") for m in messages]

    def assignments(self) -> list[SidAssignment]:
        decoder: Decoder[SidAssignment] = Decoder(RECORDS[topics.SEMANTIC_IDS])
        [messages] = self.logs.read(topics.SEMANTIC_IDS, partitions=1)
        return [decoder.decode(m.value() or b"") for m in messages]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CharacterEncoder:
    return fit_generation(tmp_path_factory.getbasetemp() / "near-line-home")


@pytest.fixture(scope="module")
def near_line(
    redis_server: LocalRedis,
    tmp_path_factory: pytest.TempPathFactory,
    encoder: CharacterEncoder,
) -> Iterator[NearLine]:
    folder = tmp_path_factory.mktemp("near-line")
    home = tmp_path_factory.getbasetemp() / "near-line-home"
    client = redis.Redis.from_url(redis_server.url)
    client.flushdb()
    begin_epoch(RedisConfig(url=redis_server.url), now_ms=0)
    with LocalKafka(folder / "kafka") as broker:
        broker.ensure_topics(topic_table(PARTITIONS))
        environment = worker_environment(broker.bootstrap, redis_server.url, home, **POLICY)
        workers = {name: WorkerProcess(name, environment, folder) for name in NAMES}
        logs = Logs(broker.bootstrap)
        try:
            with RecordProducer(KafkaConfig(bootstrap=broker.bootstrap), "test") as producer:
                yield NearLine(workers, producer, logs, client, environment)
        finally:
            codes = {name: worker.stop() for name, worker in workers.items()}
            logs.close()
        assert codes == dict.fromkeys(NAMES, 0)  # SIGTERM is a clean stop


def test_the_catalogue_reaches_redis_and_semantic_ids_though_the_indexer_is_killed(
    near_line: NearLine, encoder: CharacterEncoder
) -> None:
    for number, item in enumerate(ITEMS):
        near_line.producer.send(topics.CATALOG, item, item.item_id)
        if number == 200:
            near_line.producer.flush(10_000)
            eventually(near_line.assignments, 30, "the indexer has begun")
            near_line.workers["catalog-indexer"].kill_and_restart()
    near_line.producer.send(topics.CATALOG, b'{"item_id":"poison","title":3}', "poison")
    eventually(
        lambda: len({a.item_id for a in near_line.assignments()}) == len(ITEMS),
        60,
        f"all items; see {near_line.workers['catalog-indexer'].log}",
    )
    published = near_line.assignments()
    sids = {(a.item_id, tuple(a.sid), a.embedding) for a in published}
    assert len(sids) == len(ITEMS)  # whatever was repeated, no SID moved
    vector = encoder.encode([item_text(ITEMS[7])])[0]
    assert next(a for a in published if a.item_id == "item-7").embedding == pack(vector)
    row = near_line.redis.hgetall(f"item:{item_key_of('item-7')}")
    assert isinstance(row, dict)
    assert (row[b"item_id"], row[b"live"]) == (b"item-7", b"1")
    near_line.producer.send(topics.CATALOG, None, "item-7")
    eventually(lambda: not near_line.assignments()[-1].in_stock, 20, "item-7 is out of stock")
    assert near_line.redis.hget(f"item:{item_key_of('item-7')}", "live") == b"0"
    refused = eventually(near_line.dead, 10, "the poison's dead letter")
    assert [(d.rejection.reason, d.rejection.field) for d in refused] == [
        (Reason.WRONG_TYPE, "title")
    ]


def test_a_window_becomes_an_instruction_with_profile_and_search(
    near_line: NearLine, encoder: CharacterEncoder
) -> None:
    near_line.producer.send(topics.USERS, UserProfile(user_id="ann", city="Lima"), "ann")
    eventually(lambda: near_line.redis.get("profile:ann"), 20, "the profile")
    near_line.act("ann", "a1", ActionType.CLICK)
    near_line.act("ann", "a2", ActionType.SEARCH, item_id=None, query="kettle number")
    near_line.act("bob", "b1", ActionType.CLICK)  # no high-value action: no instruction
    made = eventually(
        lambda: near_line.instruction("ann"),
        30,
        f"an instruction; see {near_line.workers['instruction-writer'].log}",
    )
    assert made.kind is InstructionKind.QUERY_REWRITE
    assert "kettle number" in made.text
    assert "Lima" in made.text
    assert made.vector == pack(encoder.encode([made.text])[0])
    assert made.instruction_id == f"{made.trigger_id}:1"
    written = [
        message
        for part in near_line.logs.read(topics.INSTRUCTIONS)
        for message in part
        if message.key() == b"ann"
    ]
    assert [msgspec.json.decode(m.value() or b"", type=ReasoningInstruction) for m in written] == [
        made
    ]
    assert near_line.instruction("bob") is None
    assert near_line.redis.zcard("history:bob") == 1


def test_the_second_click_on_an_item_opens_a_window_where_the_scenario_says_so(
    near_line: NearLine,
) -> None:
    near_line.act("gus", "g1", ActionType.CLICK, scenario="detail", item_id="item-3")
    near_line.act("gus", "g2", ActionType.CLICK, scenario="detail", item_id="item-4")
    near_line.act("ivy", "i1", ActionType.CLICK, scenario="detail", item_id="item-3")
    near_line.act("ivy", "i2", ActionType.CART, scenario="detail", item_id="item-3")
    near_line.act("ivy", "i3", ActionType.CLICK, scenario="detail", item_id="item-3")
    near_line.act("jan", "j1", ActionType.CLICK)
    near_line.act("jan", "j2", ActionType.CLICK)  # home has the default: no click counts
    eventually(lambda: near_line.instruction("ivy"), 30, "the instruction of a second click")
    forwarded = [
        record.event_id
        for part in near_line.logs.read(topics.HIGH_VALUE_ACTIONS)
        for message in part
        if isinstance(record := HIGH_VALUE.decode(message.value() or b""), UserAction)
    ]
    assert [event for event in forwarded if event[0] in "gij"] == ["i3"]


def test_poison_reaches_dead_letters_and_the_actions_beside_it_history(
    near_line: NearLine,
) -> None:
    before = len(near_line.dead())
    near_line.producer.send(topics.ACTIONS, b'{"schema":', "cid")
    near_line.act("cid", "c1", ActionType.CLICK, scenario="moon")
    near_line.act("cid", "c2", ActionType.CLICK)
    near_line.producer.send(topics.HIGH_VALUE_ACTIONS, b"[]", "cid")
    near_line.producer.send(topics.INSTRUCTION_TRIGGERS, b"{}", "cid")
    eventually(lambda: len(near_line.dead()) >= before + 4, 30, "four dead letters")
    refused = {(d.worker, d.rejection.reason) for d in near_line.dead()[before:]}
    assert refused == {
        ("router", Reason.MALFORMED_JSON),
        ("router", Reason.UNKNOWN_SCENARIO),
        ("window-aggregator", Reason.WRONG_TYPE),
        ("instruction-writer", Reason.MISSING_FIELD),
    }
    assert near_line.redis.zcard("history:cid") == 1


def test_a_misrouted_action_arrives_at_its_partition(near_line: NearLine) -> None:
    wrong = (partition_of(b"dan", PARTITIONS) + 1) % PARTITIONS
    action = UserAction(
        event_id="d1",
        user_id="dan",
        action=ActionType.CLICK,
        item_id="item-1",
        event_time_ms=time.time_ns() // 1_000_000,
    )
    near_line.producer.send(topics.ACTIONS, action, "dan", partition=wrong)
    eventually(lambda: near_line.redis.zcard("history:dan") == 1, 20, "dan's history")
    places = [
        message.partition()
        for part in near_line.logs.read(topics.ACTIONS)
        for message in part
        if message.key() == b"dan"
    ]
    assert sorted(places, key=str) == sorted([wrong, partition_of(b"dan", PARTITIONS)], key=str)


def test_an_erased_user_has_neither_history_nor_instruction(near_line: NearLine) -> None:
    near_line.act("eve", "e1", ActionType.ORDER)
    erased = UserErased(event_id="e2", user_id="eve", event_time_ms=time.time_ns() // 1_000_000 + 1)
    near_line.producer.send(topics.ACTIONS, erased, "eve")
    near_line.act("fay", "f1", ActionType.ORDER)
    eventually(lambda: near_line.redis.get("erased:eve"), 20, "the marker")
    eventually(lambda: near_line.instruction("fay"), 30, "the instruction of another user")
    assert near_line.redis.zcard("history:eve") == 0
    assert near_line.instruction("eve") is None


def test_an_erased_user_who_comes_back_gets_an_instruction_about_what_came_after(
    near_line: NearLine,
) -> None:
    near_line.act("kim", "k1", ActionType.ORDER, item_id="item-0")
    now_ms = time.time_ns() // 1_000_000
    erased = UserErased(event_id="k2", user_id="kim", event_time_ms=now_ms + 1)
    near_line.producer.send(topics.ACTIONS, erased, "kim")
    time.sleep(0.01)  # the next action is later than the erasure
    near_line.act("kim", "k3", ActionType.SEARCH, item_id=None, query="lamp number")
    near_line.act("kim", "k4", ActionType.ORDER, item_id="item-2")
    made = eventually(lambda: near_line.instruction("kim"), 30, "the instruction of who came back")
    assert made.after_erasure_ms == erased.event_time_ms
    assert "lamp number" in made.text
    assert "mbrella" not in made.text
    spoken = [
        action.event_id
        for part in near_line.logs.read(topics.INSTRUCTION_TRIGGERS)
        for message in part
        if message.key() == b"kim"
        for action in TRIGGER.decode(message.value() or b"").actions
    ]
    assert spoken == ["k3", "k4"]


def test_a_killed_writer_leaves_no_trigger_without_its_instruction(near_line: NearLine) -> None:
    users = [f"many-{n}" for n in range(200)]
    for user in users:
        near_line.act(user, "m1", ActionType.CART)
    near_line.producer.flush(10_000)
    eventually(
        lambda: any(near_line.instruction(user) for user in users), 30, "the first instruction"
    )
    near_line.workers["instruction-writer"].kill_and_restart()
    eventually(
        lambda: all(near_line.instruction(user) for user in users), 60, "every user's instruction"
    )
    kept = {
        message.key(): message.value()
        for part in near_line.logs.read(topics.INSTRUCTIONS)
        for message in part
    }
    eventually(
        lambda: (
            {user.encode() for user in users}
            <= {m.key() for part in near_line.logs.read(topics.INSTRUCTIONS) for m in part}
        ),
        20,
        f"every instruction in its topic, {len(kept)} are there",
    )


def test_a_worker_without_its_topics_refuses_in_one_line(
    near_line: NearLine, tmp_path: Path
) -> None:
    environment = near_line.environment | {"OXYGENREC_KAFKA__PARTITIONS": "6"}
    worker = WorkerProcess("window-aggregator", environment, tmp_path)
    assert worker.wait(30) != 0
    said = worker.log.read_text()
    assert "high-value-actions with 4 partitions" in said
    assert "Traceback" not in said
