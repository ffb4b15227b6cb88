"""How Faust hands records over, without a broker."""

import asyncio
from pathlib import Path

import faust
import pytest
from mode import Service

from agents.faust_app import DirectConsumer, build_app
from streams.connections import KafkaConfig


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
