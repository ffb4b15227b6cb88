"""How long do the partitions of a killed worker stand still?

kill -9 of one worker at a random moment between two heartbeats; right after it one record a
partition is sent. Seconds from the kill until each of them has become what the worker makes of it:
a high-value action (router), a trigger (window aggregator, `trigger = first`: no window is waited
for), an instruction, a reward event (attribution of 100 ms). Only the worker that is asked about
runs, beside one Kafka node and one Redis.

- nothing: no kill, for comparison;
- restarted: started again after 0.5 s, as a supervisor does, as a new member of its group;
- same identity: the same, with `kafka.instance_id` (a static member);
- taken over: two dynamic members, one killed for good.

A worker that gives up by itself is started again, and counted.
`--workers router,...` and `--cases restarted,...` measure these alone; `--keep DIR` keeps logs.
--quick: two repetitions.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from agents.faust_app import APP as AGGREGATORS
from agents.instruction_writer import GROUP as WRITERS
from agents.reward_joiner import GROUP as JOINERS
from agents.router import GROUP as ROUTERS
from benchmarks.near_line_stack import PARTITIONS, Servers, servers, until
from benchmarks.report import finish, parser, show
from schemas import topics
from schemas.actions import ActionType, UserAction
from schemas.impressions import HistoryFeatures, Impression
from schemas.instructions import InstructionTrigger, trigger_id_of
from schemas.topics import topic_table
from streams.connections import KafkaConfig
from streams.partitioner import partition_of
from streams.producer import RecordProducer

REPETITIONS = 5
RESTART_AFTER_S = 0.5
HEARTBEAT_S = 3.0  # a kill may come anywhere between two
LIMIT_S = 90.0
WINDOW_MS = 300_000


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's group, the topic it reads a record of `asked` from, and the one it answers in."""

    group: str
    reads: str
    writes: str
    asked: Callable[[str, int], Any]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """How many run, and whether the killed one comes back, under its name or without."""

    members: int = 1
    kills: bool = True
    restarts: bool = True
    instance_id: str = ""


def _action(user: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id=user, user_id=user, action=ActionType.CART, item_id="i", event_time_ms=at_ms
    )


def _trigger(user: str, at_ms: int) -> InstructionTrigger:
    return InstructionTrigger(
        trigger_id=trigger_id_of(user, at_ms - WINDOW_MS),
        user_id=user,
        window_start_ms=at_ms - WINDOW_MS,
        window_end_ms=at_ms,
        actions=[_action(user, at_ms - 1)],
    )


def _impression(user: str, at_ms: int) -> Impression:
    return Impression(
        request_id=user,  # the key of the reward event
        user_id=user,
        scenario="home",
        served_ms=at_ms,
        generation=1,
        policy_version=1,
        index_offset=0,
        history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
        slate=[],
        beams=1,
    )


WORKERS = {
    "router": Worker(ROUTERS, topics.ACTIONS, topics.HIGH_VALUE_ACTIONS, _action),
    "window-aggregator": Worker(
        *(AGGREGATORS, topics.HIGH_VALUE_ACTIONS, topics.INSTRUCTION_TRIGGERS, _action),
        {"OXYGENREC_WINDOWS__TRIGGER": "first"},
    ),
    "instruction-writer": Worker(
        WRITERS, topics.INSTRUCTION_TRIGGERS, topics.INSTRUCTIONS, _trigger
    ),
    "reward-joiner": Worker(
        *(JOINERS, topics.IMPRESSIONS, topics.REWARDS, _impression),
        {"OXYGENREC_REWARDS__ATTRIBUTION_MS": "100", "OXYGENREC_REWARDS__LIVE_LAG_MS": "0"},
    ),
}
CASES = {
    "nothing": Case(kills=False),
    "restarted": Case(),
    "same identity": Case(instance_id="0"),
    "taken over": Case(members=2, restarts=False),
}


def main() -> None:
    """Prints, for each worker and case, the median and the longest time."""
    parse = parser(__doc__)
    parse.add_argument("--workers", default=",".join(WORKERS), help="which, with commas between")
    parse.add_argument("--cases", default=",".join(CASES), help="which, with commas between")
    parse.add_argument("--keep", type=Path, metavar="DIR", help="where logs and data stay")
    given = parse.parse_args()
    repetitions = 2 if given.quick else REPETITIONS
    started = time.monotonic()
    rows = []
    with TemporaryDirectory() as name, servers(given.keep or Path(name)) as at:
        for worker in given.workers.split(","):
            for case in given.cases.split(","):
                found, gave_up = _measure(at, worker, case, repetitions)
                rows.append(
                    {
                        "worker": worker,
                        "case": case,
                        "median_s": statistics.median(found),
                        "longest_s": max(found),
                        "gave_up": gave_up,
                    }
                )
                print(worker, case, *(f"{seconds:.1f}" for seconds in found), flush=True)
    table = [
        [f"{cell:.1f}" if isinstance(cell, float) else cell for cell in r.values()] for r in rows
    ]
    show(f"seconds from a kill, {repetitions} times each", list(rows[0]), table)
    finish("takeover", {"takeover": rows}, started=started, path=given.json)


def _measure(at: Servers, name: str, case_name: str, repetitions: int) -> tuple[list[float], int]:
    worker, case = WORKERS[name], CASES[case_name]
    rng = random.Random(f"{name} {case_name}")
    group = Group(at, name, case.instance_id)
    found = []
    with RecordProducer(KafkaConfig(bootstrap=at.bootstrap), "takeover") as producer:
        try:
            for _ in range(case.members):
                group.start()
            for turn in range(repetitions + 1):  # the first fills caches, and is not counted
                group.until_stable(case.members)
                with _answers(at.bootstrap, worker.writes) as answers:
                    time.sleep(rng.uniform(0, HEARTBEAT_S))
                    began = time.monotonic()
                    if case.kills and turn:
                        group.kill_oldest()
                    users = _users(f"{name}-{case_name}-{turn}".replace(" ", "-"))
                    for user in users:
                        record = worker.asked(user, time.time_ns() // 1_000_000)
                        producer.send(worker.reads, record, user)
                    if case.kills and case.restarts and turn:
                        time.sleep(max(0.0, began + RESTART_AFTER_S - time.monotonic()))
                        group.start()
                    _await(answers, set(users), group)
                    found.append(time.monotonic() - began)
                if case.kills and not case.restarts and turn:
                    group.start()  # the next to be killed is the one that took over
        finally:
            group.stop()
    return found[1:], group.gave_up


class Group:
    """The processes of one worker, oldest first."""

    def __init__(self, at: Servers, name: str, instance_id: str) -> None:
        self.log = at.folder / f"{name}.log"
        self.gave_up = 0  # processes that ended by themselves
        self._name = name
        self._running: list[subprocess.Popen[bytes]] = []
        self._admin = AdminClient({"bootstrap.servers": at.bootstrap})
        self._environment = {
            **os.environ,
            "OXYGENREC_KAFKA__BOOTSTRAP": at.bootstrap,
            "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
            "OXYGENREC_KAFKA__INSTANCE_ID": instance_id,
            "OXYGENREC_REDIS__URL": at.redis_url,
            "OXYGENREC_PATHS__HOME": str(at.folder),
            **WORKERS[name].settings,
        }

    def start(self) -> None:
        """Starts one process more."""
        command = [sys.executable, "-m", "agents.cli", "worker", self._name]
        with self.log.open("ab") as log:
            self._running.append(
                subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
            )

    def kill_oldest(self) -> None:
        """kill -9."""
        oldest = self._running.pop(0)
        oldest.kill()
        oldest.wait(10)

    def supervise(self) -> None:
        """Starts a process in place of each that ended by itself."""
        ended = [process for process in self._running if process.poll() is not None]
        for process in ended:
            self._running.remove(process)
            self.gave_up += 1
            self.start()

    def until_stable(self, members: int) -> None:
        """Returns when the group has so many members, each with its partitions."""

        def stable() -> bool:
            self.supervise()
            group = WORKERS[self._name].group
            try:
                described = self._admin.describe_consumer_groups([group])[group].result(10)
            except KafkaException:  # the group is not there yet
                return False
            holding = [one for one in described.members if one.assignment.topic_partitions]
            return described.state.name == "STABLE" and len(holding) == members

        until(stable, LIMIT_S, f"{members} members of {self._name}; see {self.log}")

    def stop(self) -> None:
        """Ends all of them."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(30)
        until(lambda: self._gone(), LIMIT_S, f"{self._name} has left its group")

    def _gone(self) -> bool:
        """A static member that stopped counts until its session ends."""
        group = WORKERS[self._name].group
        try:
            return not self._admin.describe_consumer_groups([group])[group].result(10).members
        except KafkaException:
            return True


def _users(name: str) -> list[str]:
    """Returns one new user of each partition."""
    users: dict[int, str] = {}
    number = 0
    while len(users) < PARTITIONS:
        user = f"{name}-{number}"
        users.setdefault(partition_of(user.encode(), PARTITIONS), user)
        number += 1
    return list(users.values())


@contextmanager
def _answers(bootstrap: str, topic: str) -> Iterator[Consumer]:
    """Gives a consumer that stands at the end of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "takeover", "enable.auto.commit": False}
    )
    [partitions] = [t.partitions for t in topic_table(PARTITIONS) if t.name == topic]
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
    consumer.assign(places)
    try:
        yield consumer
    finally:
        consumer.close()


def _await(answers: Consumer, users: set[str], group: "Group") -> None:
    limit = time.monotonic() + LIMIT_S
    while users:
        if time.monotonic() > limit:
            raise SystemExit(f"no answer within {LIMIT_S:g} s for {sorted(users)}; see {group.log}")
        users -= {_key(message.key()) for message in answers.consume(100, 0.05)}
        group.supervise()


def _key(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else ""


if __name__ == "__main__":
    main()
