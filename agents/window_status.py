"""Why does a window not close? A verdict for each partition, from what Kafka knows. Pure.

A window closes when the aggregator has applied a watermark at or behind its end plus the grace. So
it stays open while the watermark stands (no router, a backlog, a replay that has not come so far)
or is not applied (no aggregator, a backlog there).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from agents.settings import RouterConfig, Settings
from schemas import topics
from streams.partitioner import partition_of
from streams.path_facts import PartitionFacts, PathFacts, Stage
from streams.watermarks import FOREVER_MS
from streams.windows import WindowConfig, window_start_ms

ROUTER, AGGREGATOR, WRITER = "router", "window-aggregator", "instruction-writer"
# Watermarks come every second, the aggregator commits about every three: ten seconds are no jitter.
BEHIND_MS = 10_000


class Verdict(StrEnum):
    """What stands between a window and its instruction; the first that holds."""

    ENDED = "replay ended"
    NO_ROUTER = "no router"
    NO_WATERMARK = "no watermark"
    ROUTER_SILENT = "router silent"
    ROUTER_BEHIND = "router behind"
    NO_AGGREGATOR = "no aggregator"
    AGGREGATOR_BEHIND = "aggregator behind"
    NO_WRITER = "no writer"
    LATE = "late actions"
    REPLAY = "waits for events"
    CLOSES = "closes"


ADVICE: dict[Verdict, str] = {
    Verdict.ENDED: "a replayer has ended event time here: every window is closed, every further"
    " action is late; go on with fresh topics",
    Verdict.NO_ROUTER: "no router is running, so no watermark rises: `oxygenrec worker router`",
    Verdict.NO_WATERMARK: "the router has announced no watermark yet; a replay needs a first action"
    " in the partition",
    Verdict.ROUTER_SILENT: "the router has read all and announces nothing: it waits, most likely"
    " for Redis; see its log",
    Verdict.ROUTER_BEHIND: "the router works off a backlog: windows close as its watermark passes"
    " them; more routers share partitions",
    Verdict.NO_AGGREGATOR: "nobody closes windows: `oxygenrec worker window-aggregator`",
    Verdict.AGGREGATOR_BEHIND: "the aggregator has not read up to the router's watermark: it"
    " catches up, or it is stuck; see its log",
    Verdict.NO_WRITER: "windows close, but nobody writes instructions:"
    " `oxygenrec worker instruction-writer`",
    Verdict.LATE: "the newest actions came after their window had closed: they count in history"
    " and open no window; see the producer's clock",
    Verdict.REPLAY: "event time is the clock: a window closes when an action at or after its end"
    " plus the grace arrives in its partition, or the replayer's last watermark",
    Verdict.CLOSES: "windows close as their time comes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """A verdict, and when a window that starts now closes at the latest (None: nobody knows)."""

    facts: PartitionFacts
    verdict: Verdict
    closes_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserWindow:
    """The window that an action of the user would fall into now; ms since 1970."""

    partition: int
    start_ms: int
    end_ms: int
    due_ms: int


def stages(router: str, aggregator: str, writer: str) -> list[Stage]:
    """Returns the path from an action to an instruction; the arguments are consumer groups."""
    return [
        Stage(worker=ROUTER, group=router, topic=topics.ACTIONS),
        Stage(worker=AGGREGATOR, group=aggregator, topic=topics.HIGH_VALUE_ACTIONS),
        Stage(worker=WRITER, group=writer, topic=topics.INSTRUCTION_TRIGGERS),
    ]


def judge(path: PathFacts, settings: Settings, now_ms: int) -> list[PartitionStatus]:
    """Returns the status of every partition."""
    found = []
    for facts in path.partitions:
        verdict = _verdict(facts, path, settings, now_ms)
        closes_ms = None
        if verdict in (Verdict.CLOSES, Verdict.LATE, Verdict.NO_WRITER):
            closes_ms = now_ms + settings.windows.window_ms + _due_after_ms(settings)
        found.append(PartitionStatus(facts=facts, verdict=verdict, closes_ms=closes_ms))
    return found


def window_of(user_id: str, settings: Settings, at_ms: int) -> UserWindow:
    """Returns the user's window at a time, and the latest time at which it closes live."""
    start_ms = window_start_ms(user_id, at_ms, settings.windows)
    end_ms = start_ms + settings.windows.window_ms
    return UserWindow(
        partition=partition_of(user_id.encode(), settings.kafka.partitions),
        start_ms=start_ms,
        end_ms=end_ms,
        due_ms=end_ms + _due_after_ms(settings),
    )


def _due_after_ms(settings: Settings) -> int:
    """How long after its end a window closes at the latest, when the watermark is live."""
    router = settings.router
    return settings.windows.grace_ms + router.live_lag_ms + router.watermark_ms


def _verdict(facts: PartitionFacts, path: PathFacts, settings: Settings, now_ms: int) -> Verdict:
    announced, applied = facts.announced, facts.applied
    if announced is not None and announced.time_ms >= FOREVER_MS:
        if applied is not None and applied.time_ms >= FOREVER_MS:
            return Verdict.ENDED
    elif path.members[ROUTER] == 0:
        return Verdict.NO_ROUTER
    elif announced is None:
        return Verdict.NO_WATERMARK
    elif _stands(announced.time_ms, settings.router, now_ms):
        return Verdict.ROUTER_BEHIND if facts.lag[ROUTER] else Verdict.ROUTER_SILENT
    if path.members[AGGREGATOR] == 0:
        return Verdict.NO_AGGREGATOR
    far = applied is None or announced.time_ms - applied.time_ms > BEHIND_MS
    if far and facts.lag[AGGREGATOR]:
        return Verdict.AGGREGATOR_BEHIND
    if path.members[WRITER] == 0:
        return Verdict.NO_WRITER
    if settings.router.clock == "event":
        return Verdict.REPLAY
    return Verdict.LATE if _late(facts, settings.windows) else Verdict.CLOSES


def _stands(watermark_ms: int, router: RouterConfig, now_ms: int) -> bool:
    return router.clock == "live" and now_ms - watermark_ms > router.live_lag_ms + BEHIND_MS


def _late(facts: PartitionFacts, windows: WindowConfig) -> bool:
    """Whether the newest event was too old for any window when it was appended."""
    newest = facts.newest
    return (
        newest is not None
        and newest.append_ms - newest.time_ms > windows.window_ms + windows.grace_ms
    )


def remarks(found: Sequence[PartitionStatus]) -> list[tuple[Verdict, list[int], str]]:
    """Returns each verdict once: its partitions, and what to do about it."""
    partitions: dict[Verdict, list[int]] = {}
    for status in found:
        partitions.setdefault(status.verdict, []).append(status.facts.partition)
    return [(verdict, who, ADVICE[verdict]) for verdict, who in partitions.items()]
