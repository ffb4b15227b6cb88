"""The demo's settings: what waits for minutes in production waits for seconds here."""

from dataclasses import replace

from agents.settings import Settings

WINDOW_MS = 5_000
GRACE_MS = 1_000
LIVE_LAG_MS = 1_000  # everything runs on this machine: events arrive within milliseconds
ATTRIBUTION_MS = 6_000  # simulated shoppers react at once
# Servers, workers, trainer and shoppers share this machine: the 100 ms of production would say
# more about the scheduler than about the loop. The latencies are shown as they are.
DEADLINE_MS = 500
PARTITIONS = 4
GROUPS_PER_STEP = 16
STEPS_PER_PUBLISH = 8  # 128 groups: 10 s of traffic at 20 requests/s


def demo_settings(settings: Settings, home: str) -> Settings:
    """Returns the settings with the demo's windows, attribution, exploration and schedule."""
    return replace(
        settings,
        paths=replace(settings.paths, home=home),
        kafka=replace(settings.kafka, partitions=PARTITIONS, replication=1),
        windows=replace(settings.windows, window_ms=WINDOW_MS, grace_ms=GRACE_MS),
        router=replace(settings.router, watermark_ms=500, live_lag_ms=LIVE_LAG_MS),
        rewards=replace(settings.rewards, attribution_ms=ATTRIBUTION_MS, live_lag_ms=LIVE_LAG_MS),
        http=replace(settings.http, deadline_ms=DEADLINE_MS, query_ms=DEADLINE_MS // 4),
        redis=replace(settings.redis, deadline_ms=DEADLINE_MS // 5),
        triton=replace(settings.triton, deadline_ms=DEADLINE_MS // 5 * 3),
        serving=replace(settings.serving, exploration_share=1.0),
        policy=replace(
            settings.policy,
            groups_per_step=GROUPS_PER_STEP,
            steps_per_publish=STEPS_PER_PUBLISH,
        ),
    )
