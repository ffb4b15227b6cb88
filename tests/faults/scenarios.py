"""The faults. Each one is a generator: what it did before its `yield` is when the clock starts."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.agents.near_line import WorkerProcess
from tests.faults.proxy import Proxy
from tests.faults.rig import WORKERS, Rig
from tests.faults.traffic import Mix

STALL_S = 20.0
DOWN_S = 8.0  # a killed broker: longer than its session of 3 s, so that its partitions move
STORM_S = 10.0

Strike = Callable[[Rig], Iterator[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Traffic of `seconds` with the fault after the first five."""

    name: str
    strike: Strike
    mix: Mix = field(default_factory=Mix)
    seconds: float = 20.0
    most_late: float = 0.0  # the share of actions that it may make late


def nothing(rig: Rig) -> Iterator[None]:
    """No fault: what the times of the others are compared with."""
    yield


def kill_worker(name: str) -> Strike:
    """kill -9; the supervisor starts it again within half a second."""

    def strike(rig: Rig) -> Iterator[None]:
        rig.workers[name].kill()
        yield

    return strike


def kill_broker(rig: Rig) -> Iterator[None]:
    """kill -9 of a node that leads partitions and votes; back after eight seconds."""
    rig.kafka.kill(2)
    yield
    time.sleep(DOWN_S)
    rig.kafka.restart(2)


def stall_broker(rig: Rig) -> Iterator[None]:
    """SIGSTOP for 20 s: connections stay open, nothing answers, then it all comes back at once."""
    broker = rig.kafka.processes[0]
    broker.signal(signal.SIGSTOP)
    try:
        yield
        time.sleep(STALL_S)
    finally:
        broker.signal(signal.SIGCONT)


def hold_network(to: Callable[[Rig], Proxy]) -> Strike:
    """For 20 s nothing gets through between the servers and everybody else, nor an error."""

    def strike(rig: Rig) -> Iterator[None]:
        network = to(rig)
        network.hold()
        try:
            yield
            time.sleep(STALL_S)
        finally:
            network.release()

    return strike


def empty_redis(rig: Rig) -> Iterator[None]:
    """Redis dies and comes back empty; two seconds later an operator restores it."""
    rig.redis.kill()
    yield
    time.sleep(1)
    rig.redis.start()
    time.sleep(2)
    rig.restore()


def rebalance_storm(rig: Rig) -> Iterator[None]:
    """An aggregator joins or leaves every ten seconds, the first politely, the second killed."""
    for member, leave in (("storm-1", WorkerProcess.stop), ("storm-2", WorkerProcess.kill)):
        rig.add_worker("window-aggregator", beside=member)
        if member == "storm-1":
            yield
        time.sleep(STORM_S)
        leave(rig.remove_worker(member))
        time.sleep(STORM_S)


SKEW_MS = 10_000  # clocks of phones: within what the router takes from ahead (60 s)

SCENARIOS = (
    Scenario(name="none", strike=nothing),
    *(
        Scenario(name=f"kill {worker}", strike=kill_worker(worker))
        for worker in WORKERS
        if worker != "edge"
    ),
    Scenario(
        name="kill edge",
        strike=kill_worker("edge"),
        mix=Mix(posted=0.5),
        most_late=0.15,  # what waited longer than the grace (1 s) for the edge to be there again
    ),
    Scenario(
        name="kill broker",
        strike=kill_broker,
        seconds=25,
        most_late=0.05,  # its partitions move after 3 s: as long as live lag and grace together
    ),
    Scenario(name="empty redis", strike=empty_redis),
    Scenario(name="stall broker", strike=stall_broker, seconds=35, most_late=0.2),
    Scenario(
        name="stall network (Kafka)",
        strike=hold_network(lambda rig: rig.to_kafka),
        seconds=35,
        most_late=0.6,  # all of 20 s may be appended behind a watermark of the clock
    ),
    Scenario(
        name="stall network (Redis)", strike=hold_network(lambda rig: rig.to_redis), seconds=35
    ),
    Scenario(name="rebalance storm", strike=rebalance_storm, seconds=50),
    Scenario(name="poison", strike=nothing, mix=Mix(poison=0.01)),
    Scenario(name="duplicates", strike=nothing, mix=Mix(duplicates=0.1)),
    Scenario(name="misrouted", strike=nothing, mix=Mix(misrouted=0.05)),
    Scenario(name="clock skew", strike=nothing, mix=Mix(skew_ms=SKEW_MS), most_late=0.3),
    Scenario(name="hot user", strike=nothing, mix=Mix(hot_user=0.5)),
    Scenario(
        name="all mixed, kill router",
        strike=kill_worker("router"),
        mix=Mix(poison=0.01, duplicates=0.1, misrouted=0.05, hot_user=0.2),
        most_late=0.05,  # a misrouted action comes behind those that waited for the router
    ),
)
