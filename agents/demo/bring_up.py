"""Brings the whole loop up on this machine, step by step; `oxygenrec up` and the demo share it.

Servers, a generation, the catalogue, version 1, Triton, the workers.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agents.artifact_folders import generation_folder
from agents.demo.local_stack import settings_at, worker_specs
from agents.demo.preparation import POLL_S, Preparation, Progress
from agents.demo.view import DemoView, Stage
from agents.encoder_publisher import publish_encoder
from agents.exit_codes import ExitCode
from agents.settings import Settings
from agents.text_encoders import generation_encoder
from schemas import topics
from schemas.catalog import ItemUpsert
from schemas.errors import OxygenRecError
from schemas.users import UserProfile
from streams.local.stack import LocalStack
from streams.log_reader import LogReader
from streams.producer import RecordProducer
from streams.redis_epoch import begin_epoch

GENERATION = 1
# Without a new item. A batch takes 0.1 s (builtin) or 4 s (all-MiniLM-L6-v2); an indexer that
# joins a busy broker needs 5 s more.
INDEX_TIMEOUT_S = 60.0
SEND_DEADLINE_MS = 30_000
# They need no generation: they start while it is trained.
EARLY = ("router", "window-aggregator", "reward-joiner")
WITH_GENERATION = ("catalog-indexer", "instruction-writer")
WITH_POLICY = ("policy-trainer", "edge")


class CatalogueNotIndexed(OxygenRecError):
    """The indexer did not assign semantic IDs to the whole catalogue in time."""

    exit_code = ExitCode.FAILED

    def __init__(self, *, found: int, wanted: int, log: Path) -> None:
        self.found = found
        super().__init__(
            f"semantic-ids holds {found} of {wanted} items, none new for {INDEX_TIMEOUT_S:g} s:"
            f" the log of the catalog-indexer is {log}"
        )


class BringUp:
    """The steps, in order. Each leaves the stack to be stopped by whoever opened it."""

    def __init__(
        self, stack: LocalStack, settings: Settings, preparation: Preparation, view: DemoView
    ) -> None:
        """Takes an open stack and the preparation that runs beside it."""
        self.stack = stack
        self._given = settings
        self._preparation = preparation
        self._view = view

    @property
    def settings(self) -> Settings:
        """The settings with the addresses that the stack has by now."""
        return settings_at(self._given, self.stack.addresses, self.stack.home)

    def servers_and_generation(self) -> None:
        """Starts Kafka, Redis, Triton and the first workers while a generation is trained."""
        forget_policies(self.stack.home)
        stages: dict[str, Stage] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in stages:
                stages[progress.stage] = self._view.begin(progress.stage, progress.total)
            stages[progress.stage].advance_to(progress.done, progress.note)

        with self._view.stages(), ThreadPoolExecutor(1) as pool:
            servers = pool.submit(self._start_servers)
            try:
                self._preparation.await_generation(show)
            finally:
                servers.result()

    def _start_servers(self) -> None:
        stage = self._view.begin("Kafka, Redis, Triton", 3)
        self.stack.start_servers()
        # The logs begin empty too: there is nothing that this Redis could have lost.
        begin_epoch(self.settings.redis, time.time_ns() // 1_000_000)
        stage.advance_to(1, self.stack.addresses.kafka_bootstrap)
        self.stack.start_workers(worker_specs(self._given, EARLY))
        stage.advance_to(2, ", ".join(EARLY))
        repository = self.stack.home / "model_repository"
        repository.mkdir(exist_ok=True)
        self.stack.start_triton(repository)
        stage.advance_to(3, self.stack.addresses.triton_grpc_url or "generator in process")

    def catalogue(self, items: Sequence[ItemUpsert], profiles: Sequence[UserProfile]) -> None:
        """Sends the catalogue and the profiles, and waits until every item has a semantic ID.

        Raises `CatalogueNotIndexed`, `UndeliveredRecords`.
        """
        self._text_encoder()
        self.stack.start_workers(worker_specs(self._given, WITH_GENERATION))
        with self._view.stages():
            stage = self._view.begin("catalogue through Kafka", len(items))
            with RecordProducer(self.settings.kafka, "oxygenrec-merchant") as producer:
                for item in items:
                    producer.send(topics.CATALOG, item, item.item_id)
                for profile in profiles:
                    producer.send(topics.USERS, profile, profile.user_id)
                producer.flush(SEND_DEADLINE_MS)
            asyncio.run(self._await_index(len(items), stage))

    def _text_encoder(self) -> None:
        """Loads an encoder that needs torch into Triton: indexer and writer wait for its answer.

        Raises `EncoderMismatch`, `TritonControlFailed`.
        """
        folder = generation_folder(self.settings, GENERATION)
        if not generation_encoder(folder).needs_torch or self.stack.triton is None:
            return
        with self._view.stages():
            stage = self._view.begin("text encoder in Triton", 1)
            asyncio.run(publish_encoder(self.settings, GENERATION))
            stage.advance_to(1, generation_encoder(folder).name)

    async def _await_index(self, wanted: int, stage: Stage) -> None:
        newest, moved = 0, time.monotonic()
        async with LogReader(self.settings.kafka, topics.SEMANTIC_IDS) as log:
            while True:
                _, found = await log.bounds()
                if found > newest:
                    newest, moved = found, time.monotonic()
                stage.advance_to(min(found, wanted), "items with a semantic ID")
                if found >= wanted:
                    return
                if time.monotonic() > moved + INDEX_TIMEOUT_S:
                    name = self.stack.home / "logs" / "catalog-indexer.log"
                    raise CatalogueNotIndexed(found=found, wanted=wanted, log=name)
                await asyncio.sleep(POLL_S)

    def first_version(self) -> None:
        """Publishes version 1 with its index snapshot, then starts what serves and trains it."""
        with self._view.stages():
            stage = self._view.begin("policy version 1", 2)
            self._preparation.publish(self.stack.addresses.environment(self.stack.home))
            stage.advance_to(1, "published")
            self.stack.start_workers(worker_specs(self._given, WITH_POLICY))
            stage.advance_to(2, f"{', '.join(WITH_POLICY)}: {self.stack.addresses.http_url}")


def forget_policies(home: Path) -> None:
    """Removes an earlier stack's versions and checkpoints: the log of their offsets is gone."""
    for name in ("model_repository", "checkpoints"):
        shutil.rmtree(home / name, ignore_errors=True)
