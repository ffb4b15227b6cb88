"""The settings of the end-to-end run: everything real, every wait seconds long."""

from dataclasses import replace
from pathlib import Path

from agents.settings import Settings

WINDOW_MS = 2_000
GRACE_MS = 500
LIVE_LAG_MS = 1_000
ATTRIBUTION_MS = 3_000
HISTORY_LENGTH = 5_000  # nothing is trimmed: every acknowledged id must be found
PARTITIONS = 4
GROUPS_PER_STEP = 8
STEPS_PER_PUBLISH = 8
OFFLINE_STEPS = 60  # far from trained out: the claims are about the loop, not its quality


def loop_settings(home: Path) -> Settings:
    """Returns the settings of one run below `home`."""
    given = Settings()
    return replace(
        given,
        paths=replace(given.paths, home=str(home)),
        kafka=replace(given.kafka, partitions=PARTITIONS, replication=1),
        windows=replace(given.windows, window_ms=WINDOW_MS, grace_ms=GRACE_MS),
        router=replace(
            given.router, watermark_ms=500, live_lag_ms=LIVE_LAG_MS, history_length=HISTORY_LENGTH
        ),
        rewards=replace(given.rewards, attribution_ms=ATTRIBUTION_MS, live_lag_ms=LIVE_LAG_MS),
        serving=replace(given.serving, exploration_share=1.0),
        policy=replace(
            given.policy, groups_per_step=GROUPS_PER_STEP, steps_per_publish=STEPS_PER_PUBLISH
        ),
        offline=replace(given.offline, steps=OFFLINE_STEPS),
    )
