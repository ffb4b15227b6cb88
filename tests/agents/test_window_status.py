"""Why a window does not close: one verdict for each thing that can stand in its way."""

from dataclasses import replace

import pytest

from agents.cli_windows import screen, span, user_line
from agents.settings import RouterConfig, Settings
from agents.window_status import ADVICE, AGGREGATOR, ROUTER, WRITER, Verdict, judge, window_of
from schemas.actions import ActionType, UserAction
from streams.connections import KafkaConfig
from streams.partitioner import partition_of
from streams.path_facts import PartitionFacts, PathFacts, Seen
from streams.watermarks import FOREVER_MS
from streams.windows import PartitionWindows

NOW_MS = 1_700_000_000_000
SETTINGS = Settings(kafka=KafkaConfig(partitions=1))
REPLAY = replace(SETTINGS, router=RouterConfig(clock="event"))
LAG = {ROUTER: 0, AGGREGATOR: 0, WRITER: 0}
MEMBERS: dict[str, int | None] = {ROUTER: 1, AGGREGATOR: 1, WRITER: 1}
SILENT = Seen(time_ms=NOW_MS - 600_000, append_ms=NOW_MS - 598_000)
LIVE = PartitionFacts(
    partition=0,
    newest=Seen(time_ms=NOW_MS - 5_000, append_ms=NOW_MS - 4_900),
    last=Seen(time_ms=NOW_MS - 5_000, append_ms=NOW_MS - 4_900),
    announced=Seen(time_ms=NOW_MS - 2_400, append_ms=NOW_MS - 400),
    applied=Seen(time_ms=NOW_MS - 4_400, append_ms=NOW_MS - 2_400),
    lag=LAG,
)
ENDED = Seen(time_ms=FOREVER_MS, append_ms=NOW_MS)
UNTIMELY = Seen(time_ms=NOW_MS - 7_200_000, append_ms=NOW_MS)


def path(facts: PartitionFacts = LIVE, **members: int | None) -> PathFacts:
    named = {name.replace("_", "-"): count for name, count in members.items()}
    return PathFacts(partitions=[facts], members=MEMBERS | named)


@pytest.mark.parametrize(
    ("verdict", "found", "settings"),
    [
        (Verdict.CLOSES, path(), SETTINGS),
        (Verdict.CLOSES, path(replace(LIVE, newest=None, last=None)), SETTINGS),
        (Verdict.CLOSES, path(router=None), SETTINGS),  # a broker that cannot count members
        (Verdict.NO_ROUTER, path(router=0), SETTINGS),
        (Verdict.NO_WATERMARK, path(replace(LIVE, announced=None, applied=None)), SETTINGS),
        (Verdict.ROUTER_SILENT, path(replace(LIVE, announced=SILENT, applied=SILENT)), SETTINGS),
        (
            Verdict.ROUTER_BEHIND,
            path(replace(LIVE, announced=SILENT, applied=SILENT, lag=LAG | {ROUTER: 7})),
            SETTINGS,
        ),
        (Verdict.NO_AGGREGATOR, path(window_aggregator=0), SETTINGS),
        (
            Verdict.AGGREGATOR_BEHIND,
            path(replace(LIVE, applied=SILENT, lag=LAG | {AGGREGATOR: 90})),
            SETTINGS,
        ),
        (
            Verdict.AGGREGATOR_BEHIND,
            path(replace(LIVE, announced=ENDED, applied=SILENT, lag=LAG | {AGGREGATOR: 1})),
            REPLAY,
        ),
        (Verdict.NO_WRITER, path(instruction_writer=0), SETTINGS),
        (Verdict.LATE, path(replace(LIVE, newest=UNTIMELY)), SETTINGS),
        (Verdict.REPLAY, path(replace(LIVE, announced=SILENT, applied=SILENT)), REPLAY),
        (Verdict.ENDED, path(replace(LIVE, announced=ENDED, applied=ENDED)), REPLAY),
    ],
)
def test_each_obstacle_has_its_verdict(
    verdict: Verdict, found: PathFacts, settings: Settings
) -> None:
    [status] = judge(found, settings, NOW_MS)
    assert status.verdict is verdict
    assert verdict in ADVICE
    shown = "\n".join(screen([status], found, settings, NOW_MS))
    assert verdict.value in shown
    assert len(shown.splitlines()) == 4


def test_a_promised_closing_time_is_one_at_which_the_window_core_closes() -> None:
    [status] = judge(path(), SETTINGS, NOW_MS)
    assert status.closes_ms is not None
    unstaggered = replace(SETTINGS.windows, stagger=False)
    settings = replace(SETTINGS, windows=unstaggered)
    start_ms = NOW_MS // 300_000 * 300_000
    window = window_of("ann", settings, start_ms)
    assert (window.start_ms, window.end_ms) == (start_ms, start_ms + 300_000)
    windows = PartitionWindows(0, unstaggered)
    windows.observe(
        UserAction(event_id="1", user_id="ann", action=ActionType.ORDER, event_time_ms=start_ms), 0
    )
    # at that time the router has announced a watermark not older than lag and cadence
    worst_ms = window.due_ms - settings.router.live_lag_ms - settings.router.watermark_ms
    windows.advance(worst_ms - 1, 1)
    assert windows.take_effects().closed == 0
    windows.advance(worst_ms, 2)
    assert windows.take_effects().closed == 1
    assert status.closes_ms - NOW_MS == window.due_ms - window.start_ms


def test_a_users_window_is_named_with_what_keeps_it_open() -> None:
    found = path(router=0)
    settings = replace(SETTINGS, kafka=KafkaConfig(partitions=1))
    line = user_line("ann", judge(found, settings, NOW_MS), settings, NOW_MS)
    assert line.startswith("user ann: partition 0, window of now [")
    assert line.endswith("stays open: no router")
    assert "closes by" in user_line("ann", judge(path(), settings, NOW_MS), settings, NOW_MS)


def test_a_users_partition_is_the_producers() -> None:
    for user in ("ann", "bob", "cid:1"):
        assert window_of(user, Settings(), NOW_MS).partition == partition_of(user.encode(), 12)


@pytest.mark.parametrize(
    ("length_ms", "shown"),
    [(2_400, "2.4 s"), (119_000, "119.0 s"), (300_000, "5 m"), (7_200_000, "2 h"), (10**9, "12 d")],
)
def test_a_span_is_in_its_largest_unit(length_ms: int, shown: str) -> None:
    assert span(length_ms) == shown
