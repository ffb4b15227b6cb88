"""The binding to Faust: explicit names, nothing passed over, an end whatever Faust does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agents import window_aggregator
from agents.faust_app import build_app
from agents.settings import Settings
from agents.stream_progress import OffsetsSkipped, StreamProgress
from agents.window_aggregator import AGENT, WindowAggregator
from schemas import topics
from streams.connections import KafkaConfig
from streams.windows import WindowConfig


class Event:
    """What the agent needs of a Faust event here: whether it was acknowledged."""

    acknowledged = False

    def ack(self) -> None:
        self.acknowledged = True


async def from_zero(partition: int) -> int:
    return 0


@pytest.fixture
def aggregator(tmp_path: Path) -> WindowAggregator:
    kafka = KafkaConfig(bootstrap="127.0.0.1:1,127.0.0.2:1", partitions=4)
    producer: Any = None  # nothing is sent here
    return WindowAggregator(build_app(kafka, tmp_path), producer, WindowConfig(), from_zero)


async def test_an_event_without_writes_waits_for_those_before_it() -> None:
    progress = StreamProgress(from_zero)
    events = [Event(), Event(), Event()]
    entries = [await progress.deliver(0, offset, event) for offset, event in enumerate(events)]
    progress.finish(entries[1])
    progress.finish(entries[2])
    assert not any(event.acknowledged for event in events)
    progress.finish(entries[0])
    assert all(event.acknowledged for event in events)


async def test_an_offset_that_was_passed_over_is_never_stepped_over() -> None:
    progress = StreamProgress(from_zero)
    await progress.deliver(0, 0, Event())
    await progress.deliver(0, 1, Event())
    await progress.deliver(0, 0, Event())  # delivered again: no gap
    with pytest.raises(OffsetsSkipped, match="found offset 9, wanted 2"):
        await progress.deliver(0, 9, Event())
    progress.reset()
    with pytest.raises(OffsetsSkipped, match="wanted 0"):  # also at the start of an assignment
        await progress.deliver(0, 2, Event())


async def test_flow_resumed_twice_keeps_what_was_fetched_in_between(tmp_path: Path) -> None:
    app = build_app(KafkaConfig(), tmp_path)
    queue = app.FlowControlQueue(maxsize=10, clear_on_resume=True)
    app.flow_control.resume()
    await queue.put("fetched after the first resume")
    app.flow_control.resume()
    assert queue.qsize() == 1
    app.flow_control.suspend()
    app.flow_control.resume()
    assert queue.empty()  # a rebalance still empties it


def test_group_agent_table_and_changelog_have_the_names_of_the_topic_table(
    aggregator: WindowAggregator,
) -> None:
    app = aggregator._app
    assert app.conf.id == "oxygenrec-window-aggregator"
    assert aggregator.agent.name == AGENT
    assert aggregator._table.changelog_topic.get_topic_name() == topics.WINDOW_CHANGELOG
    assert aggregator._table.partitions == 4
    assert [str(url) for url in app.conf.broker] == ["kafka://127.0.0.1:1", "kafka://127.0.0.2:1"]
    assert (app.conf.producer_acks, app.conf.topic_allow_declare) == (-1, False)


def test_the_default_windows_are_those_of_the_settings() -> None:
    assert Settings().windows == WindowConfig(window_ms=300_000, grace_ms=10_000, stagger=True)


class StuckApp:
    """A Faust app that has crashed, and whose stop waits for what nobody acknowledges."""

    crash_reason: OffsetsSkipped | None = OffsetsSkipped(partition=0, found=2, wanted=1)

    async def start(self) -> None:
        pass

    async def wait_until_stopped(self) -> None:
        pass

    async def stop(self) -> None:
        await asyncio.Event().wait()


class IdleProducer:
    """A producer that nobody asks anything."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def test_a_worker_that_gave_up_ends_also_when_faust_does_not_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_aggregator, "STOP_S", 0.01)
    monkeypatch.setattr(window_aggregator, "check_topics", lambda *_: None)
    monkeypatch.setattr(window_aggregator, "build_app", lambda *_: StuckApp())
    monkeypatch.setattr(window_aggregator, "WindowAggregator", lambda *_: None)
    monkeypatch.setattr(window_aggregator, "_producer", lambda *_: IdleProducer())
    with pytest.raises(OffsetsSkipped):
        asyncio.run(asyncio.wait_for(window_aggregator.run(Settings()), 5))


class SlowApp(StuckApp):
    """A Faust app that is still starting when the process is told to end."""

    crash_reason = None
    stopped = False

    async def start(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True


async def test_a_worker_told_to_end_while_it_starts_stops_what_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = SlowApp()
    monkeypatch.setattr(window_aggregator, "check_topics", lambda *_: None)
    monkeypatch.setattr(window_aggregator, "build_app", lambda *_: app)
    monkeypatch.setattr(window_aggregator, "WindowAggregator", lambda *_: None)
    monkeypatch.setattr(window_aggregator, "_producer", lambda *_: IdleProducer())
    running = asyncio.ensure_future(window_aggregator.run(Settings()))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert app.stopped
