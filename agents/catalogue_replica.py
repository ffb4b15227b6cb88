"""A loaded version that follows the live catalogue, inside Triton or in process.

A replica serves its snapshot, reads `semantic-ids` on from there to the end, and only then says
that it is ready. Without Kafka it says so late and serves what it has: Redis' item rows still keep
an item that is not live off every slate.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from agents.settings import Settings
from models.serving.compiled_decoding import CompiledDecoding, CompiledRefused, open_compiled
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy, load_version
from streams.catalog_follower import CatalogFollower

CATCH_UP_S = 10.0  # 100k changes take about 2 s

logger = logging.getLogger(__name__)


class CatalogueReplica:
    """One version: its engine, and the follower that keeps the engine's catalogue current."""

    def __init__(self, directory: Path, count_unknown: Callable[[int], None]) -> None:
        """Loads and warms the version. Raises `PolicyDirectoryInvalid`."""
        policy = load_version(directory)
        self.version = policy.manifest.policy_version
        self.engine = GeneratorEngine(policy, count_unknown, _compiled(directory, policy))
        self.engine.warm_up()
        self._follower: CatalogFollower | None = None

    def follow(self, settings: Settings, report: Callable[[float], None] | None = None) -> None:
        """Follows from now on; returns at the log's end, or after 10 s without reaching it.

        `report` is called with `lag_s` a few times a second, on the follower's thread.
        """
        if not settings.serving.follow_catalog:
            return
        self._follower = CatalogFollower(
            settings.kafka,
            start=self.engine.policy.manifest.index_offset,
            apply=self.engine.catalogue.apply,
            report=report,
        )
        self._follower.start()
        if not self._follower.wait_caught_up(CATCH_UP_S):
            logger.warning(
                "semantic-ids not read to their end: the snapshot serves meanwhile",
                extra={"policy_version": self.version, "waited_s": CATCH_UP_S},
            )

    @property
    def lag_s(self) -> float:
        """Seconds since the whole of `semantic-ids` was applied; 0 where it is not followed."""
        return self._follower.lag_s if self._follower else 0.0

    @property
    def is_compiled(self) -> bool:
        """Whether a compiled decoding serves what it can."""
        return self.engine.compiled is not None

    def close(self) -> None:
        """Ends the following."""
        if self._follower is not None:
            self._follower.stop()


def _compiled(directory: Path, policy: LoadedPolicy) -> CompiledDecoding | None:
    try:
        return open_compiled(directory, policy)
    except CompiledRefused as error:
        version = policy.manifest.policy_version
        logger.warning(
            "compiled decoding refused: decoding eagerly",
            extra={"policy_version": version, "cause": error.cause},
        )
        return None
