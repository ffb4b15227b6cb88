"""How Faust hands records over, without a broker."""

import asyncio
from pathlib import Path
from typing import Any, cast

import faust
import pytest
from faust.types import TP
from mode import Service

from agents.faust_app import DirectConsumer, build_app
from streams.connections import KafkaConfig

STREAM, CHANGELOG = TP("high-value-actions", 2), TP("oxygenrec-windows-changelog", 2)


class Unconnected(DirectConsumer):
    """The consumer without the thread that asks Kafka."""

    def __init__(self, app: faust.App) -> None:
        Service.__init__(self)
        self.app = app
        self.suspend_flow = asyncio.Event()


@pytest.fixture
async def consumer(tmp_path: Path) -> DirectConsumer:
    app = build_app(KafkaConfig(partitions=4), tmp_path)
    assert app.transport.Consumer is DirectConsumer
    app.flow_control.resume()
    return Unconnected(app)


async def test_a_record_is_handed_over_by_the_task_that_fetched_it(
    consumer: DirectConsumer,
) -> None:
    delivered_by: list[object] = []

    async def deliver() -> str:
        delivered_by.append(asyncio.current_task())
        return "delivered"

    outcome = await consumer.wait_first(deliver(), consumer.suspend_flow.wait())
    assert delivered_by == [asyncio.current_task()]
    assert outcome.results == ["delivered"]
    assert not outcome.stopped


async def test_what_a_delivery_raises_is_raised(consumer: DirectConsumer) -> None:
    async def deliver() -> None:
        raise ValueError("no such partition")

    with pytest.raises(ValueError, match="no such partition"):
        await consumer.wait_first(deliver(), consumer.suspend_flow.wait())


@pytest.mark.parametrize("whose", ["the consumer's", "the app's"])
async def test_a_delivery_that_waits_is_given_up_when_partitions_move(
    consumer: DirectConsumer, whose: str
) -> None:
    """Flow is suspended: the delivery waits, and the fetching task must not wait with it."""
    if whose == "the app's":
        consumer.app.flow_control.suspend()
        asyncio.get_running_loop().call_later(0.01, consumer.suspend_flow.set)
    else:
        consumer.suspend_flow.set()
    given_up = asyncio.Event()

    async def deliver() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with asyncio.timeout(5):
        await consumer.wait_first(deliver(), consumer.suspend_flow.wait())
        await given_up.wait()


class Thread:
    """Asks aiokafka, which meanwhile fetches a row of the changelog; partitions move on the way."""

    def __init__(self, active: set[TP], then: set[TP]) -> None:
        self._active, self._then = active, then

    async def getmany(self, partitions: Any, timeout: float) -> dict[TP, list[str]]:  # noqa: ASYNC109  Faust's signature
        self._active.clear()
        self._active.update(self._then)
        # As `Fetcher.fetched_records` decides what to leave for a later question.
        left = partitions and CHANGELOG not in partitions
        return {} if left else {CHANGELOG: ["row"]}


@pytest.mark.parametrize(
    "then", [set(), {STREAM}, {CHANGELOG}], ids=["none", "stream", "changelog"]
)
async def test_a_fetch_under_way_brings_active_partitions_alone(
    consumer: DirectConsumer, then: set[TP]
) -> None:
    """Else Faust throws away what it brought, and the recovery waits for it for ever."""
    active = {STREAM}
    consumer._thread = cast(Any, Thread(active, then))
    found = await consumer._getmany(active, 1.0)
    assert list(found) == [tp for tp in then if tp == CHANGELOG]
