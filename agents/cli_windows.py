"""The part of `status` that answers "why does my window not close?", in one screen."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import typer
from confluent_kafka import KafkaException

from agents.cli_kafka import UNIT_MS, kafka_of
from agents.settings import Settings
from agents.window_status import (
    AGGREGATOR,
    ROUTER,
    WRITER,
    PartitionStatus,
    Verdict,
    judge,
    remarks,
    stages,
    window_of,
)
from schemas import topics
from streams.admin import BrokerSilent, check_topics
from streams.path_facts import PathFacts, Seen, read_path
from streams.watermarks import FOREVER_MS

READ = (topics.ACTIONS, topics.HIGH_VALUE_ACTIONS, topics.INSTRUCTION_TRIGGERS)
COLUMNS = (
    *("partition", "newest event", "idle for", "watermark", "applied", "lag r/a/w"),
    *("a window of now closes", "verdict"),
)


def show_windows(settings: Settings, user: str | None) -> bool:
    """Prints a line a partition and what stands in the way; returns whether all windows close.

    Raises `BrokerSilent`, `TopicsDiffer`.
    """
    settings = replace(settings, kafka=kafka_of(settings))
    check_topics(settings.kafka, READ)
    now_ms = time.time_ns() // 1_000_000  # before the question: the answer is not younger
    try:
        path = _read(settings)
    except KafkaException as error:
        raise BrokerSilent(bootstrap=settings.kafka.bootstrap, cause=str(error)) from error
    found = judge(path, settings, now_ms)
    for line in screen(found, path, settings, now_ms):
        typer.echo(line)
    if user is not None:
        typer.echo(user_line(user, found, settings, now_ms))
    return all(status.verdict in (Verdict.CLOSES, Verdict.REPLAY) for status in found)


def _read(settings: Settings) -> PathFacts:
    from agents.faust_app import APP
    from agents.instruction_writer import GROUP as WRITERS
    from agents.router import GROUP as ROUTERS

    return read_path(settings.kafka, stages(ROUTERS, APP, WRITERS))


def screen(
    found: Sequence[PartitionStatus], path: PathFacts, settings: Settings, now_ms: int
) -> list[str]:
    """Returns the lines: settings in force, a table, one remark a verdict."""
    windows = settings.windows
    members = ", ".join(
        f"{path.members[worker] if path.members[worker] is not None else '?'} {worker}"
        for worker in (ROUTER, AGGREGATOR, WRITER)
    )
    head = (
        f"windows of {span(windows.window_ms)}, grace {span(windows.grace_ms)},"
        f" trigger {windows.trigger}, clock {settings.router.clock}, {moment(now_ms, now_ms)} UTC;"
        f" running: {members}"
    )
    rows = [COLUMNS, *(_row(status, now_ms) for status in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    notes = [
        f"{verdict} ({_numbers(partitions, len(found))}): {advice}"
        for verdict, partitions, advice in remarks(found)
    ]
    return [head, *table, *notes]


def user_line(user: str, found: Sequence[PartitionStatus], settings: Settings, now_ms: int) -> str:
    """Returns when the window closes that an action of this user would fall into now."""
    window = window_of(user, settings, now_ms)
    verdict = found[window.partition].verdict
    start, end, due = (
        moment(at_ms, now_ms) for at_ms in (window.start_ms, window.end_ms, window.due_ms)
    )
    says = f"closes by {due}" if found[window.partition].closes_ms else f"stays open: {verdict}"
    return f"user {user}: partition {window.partition}, window of now [{start}, {end}), {says}"


def _row(status: PartitionStatus, now_ms: int) -> tuple[str, ...]:
    facts = status.facts
    return (
        str(facts.partition),
        moment(facts.newest.time_ms, now_ms) if facts.newest else "none",
        span(now_ms - facts.last.append_ms) if facts.last else "-",
        _behind(facts.announced, now_ms),
        _behind(facts.applied, now_ms),
        "/".join(str(facts.lag[worker]) for worker in (ROUTER, AGGREGATOR, WRITER)),
        f"by {moment(status.closes_ms, now_ms)}" if status.closes_ms else "-",
        status.verdict.value,
    )


def _behind(watermark: Seen | None, now_ms: int) -> str:
    if watermark is None:
        return "none"
    if watermark.time_ms >= FOREVER_MS:
        return "for ever"
    return f"-{span(now_ms - watermark.time_ms)}"


def _numbers(partitions: Sequence[int], count: int) -> str:
    return "all" if len(partitions) == count else ", ".join(map(str, partitions))


def moment(at_ms: int, now_ms: int) -> str:
    """Returns a time of the day in UTC, with its date where that is not today's."""
    at, now = (datetime.fromtimestamp(ms / 1_000, UTC) for ms in (at_ms, now_ms))
    return at.strftime("%H:%M:%S" if at.date() == now.date() else "%Y-%m-%d %H:%M:%S")


def span(length_ms: int) -> str:
    """Returns a length of time in its largest whole unit: 2.4 s, 5 m, 3 h, 12 d."""
    if abs(length_ms) < 2 * UNIT_MS["m"]:
        return f"{length_ms / 1_000:.1f} s"
    unit = next(unit for unit in "dhm" if abs(length_ms) >= 2 * UNIT_MS[unit])
    return f"{length_ms / UNIT_MS[unit]:.0f} {unit}"
