"""The policy-trainer worker: `rewards` in, checkpoints and published versions out.

Offsets live in the checkpoint, so a kill -9 at any instant neither skips nor repeats a step:
(1) read, (2) step, (3) append to the step log, (4) checkpoint by one rename, (5) publish when due.
Training runs on one thread of low priority, so that serving on the same machine keeps its latency.
"""

import asyncio
import copy
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TypeVar

import torch
from aiokafka.errors import KafkaError

from agents.artifact_folders import checkpoint_folder, generation_folder
from agents.decoding_compiler import DecodingCompiler
from agents.low_priority import lower_process
from agents.policy_publisher import (
    Candidate,
    PolicyPublisher,
    Publication,
    ensure_published,
    open_publisher,
)
from agents.settings import Settings
from models.generator.files import load_generator
from models.policy.checkpoint import load_checkpoint, save_checkpoint
from models.policy.step_log import StepLog, StepReport
from models.policy.trainer import NonFiniteLoss, PolicyTrainer
from schemas import topics
from schemas.codec import Decoder
from schemas.errors import InvalidRecord
from schemas.rewards import RewardEvent
from streams import metrics
from streams.dead_letters import DeadLetters, Source, rejection_of
from streams.log_reader import LogReader, LogReadTimeout, LogRecord, OffsetExpired
from streams.producer import RecordProducer

WORKER = "policy-trainer"
RECONNECT_S = 1.0
PROBES = 4  # requests of the last step that a published version must answer as the trainer does


T = TypeVar("T")
logger = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Trains and publishes until cancelled; a step waits for serving, never the other way."""
    lower_process()
    async with AsyncExitStack() as stack:
        thread = ThreadPoolExecutor(1, WORKER)
        stack.callback(thread.shutdown)  # what is under way is finished: under a second
        compiler = DecodingCompiler(settings)
        stack.callback(compiler.close)  # but for a compilation, which is ended before
        producer = RecordProducer(settings.kafka, f"oxygenrec-{WORKER}")
        stack.push_async_callback(asyncio.to_thread, producer.close)
        publisher = await stack.enter_async_context(
            open_publisher(settings, producer, thread, compiler)
        )
        await ensure_published(settings, compiler)
        await publisher.begin()
        letters = DeadLetters(producer, WORKER, lambda: time.time_ns() // 1_000_000)
        worker = PolicyTrainerWorker(settings, publisher, letters, thread)
        await worker.resume()
        await worker.follow()


class PolicyTrainerWorker:
    """Feeds one trainer from the log."""

    def __init__(
        self,
        settings: Settings,
        publisher: PolicyPublisher,
        letters: DeadLetters,
        thread: Executor,
    ) -> None:
        """Takes a publisher that holds the line; every tensor is touched on `thread` alone."""
        self._settings = settings
        self._publisher = publisher
        self._letters = letters
        self._thread = thread
        self._root = checkpoint_folder(settings)
        self._log = StepLog(self._root / "steps.jsonl")
        self._decoder: Decoder[RewardEvent] = Decoder(RewardEvent)
        self._attempted = 0  # steps at the last publish that failed
        self._weights = copy.deepcopy(publisher.served.generator)
        self.trainer = self._new_trainer()

    async def resume(self) -> None:
        """Goes on from the newest checkpoint, or from the served version where there is none."""
        await self._in_thread(self._restore)
        logger.info(
            "trainer ready",
            extra={"step": self.trainer.steps, "offset": self.trainer.next_offset},
        )

    async def follow(self) -> None:
        """Reads `rewards` for ever; a lost connection is made again at the next offset."""
        while True:
            try:
                async with LogReader(self._settings.kafka, topics.REWARDS) as log:
                    async for record in log.follow(self.trainer.next_offset):
                        await self.take(record)
            except OffsetExpired as error:
                logger.warning("rewards were lost to retention: %s", error)
                self.trainer.go_on_at(error.earliest)
            except KafkaError as error:
                logger.warning("rewards cannot be read", extra={"cause": str(error)})
                await asyncio.sleep(RECONNECT_S)

    async def take(self, record: LogRecord) -> None:
        """Learns from one record; a completed step is logged, saved, and published when due."""
        metrics.CONSUMED.labels(worker=WORKER, topic=topics.REWARDS).inc()
        try:
            event = self._decoder.decode(record.value or b"")
        except InvalidRecord as error:
            source = Source(
                topic=topics.REWARDS,
                partition=0,
                offset=record.offset,
                key=record.key,
                value=record.value,
            )
            await asyncio.wrap_future(self._letters.send(source, rejection_of(error)))
            return
        await self._reach(event.impression.index_offset)
        report = await self._in_thread(lambda: self._learn(record.offset, event))
        if report is not None and self._due():
            await self._publish(report)

    async def _reach(self, index_offset: int) -> None:
        """Reads the catalogue as far as the request's replica had; without it the group drops."""
        try:
            await self._publisher.growth.reach(index_offset)
        except (InvalidRecord, LogReadTimeout, OffsetExpired) as error:
            logger.warning("semantic-ids cannot be read", extra={"cause": str(error)})

    def _new_trainer(self) -> PolicyTrainer:
        generation = self._publisher.served.manifest.generation
        return PolicyTrainer(
            policy=self._weights,
            reference=load_generator(generation_folder(self._settings, generation)),
            generation=generation,
            versions=self._publisher.versions,
            config=self._settings.policy,
        )

    def _restore(self) -> None:
        torch.set_num_threads(1)  # bitwise repeatable steps, and a core left for serving
        torch.manual_seed(self._settings.policy.seed)
        served = self._publisher.served.manifest
        state = load_checkpoint(self._root)
        if state is not None and state.manifest.generation == served.generation:
            self.trainer.restore(state)
        else:
            self.trainer.go_on_at(served.reward_offsets[1], steps=served.steps)
        self._log.keep_until(self.trainer.steps)

    def _learn(self, offset: int, event: RewardEvent) -> StepReport | None:
        before, started = Counter(self.trainer.counts), time.perf_counter()
        try:
            report = self.trainer.offer(offset, event)
        except NonFiniteLoss:
            logger.exception("step left out")
            metrics.REWARD_GROUPS.labels(result="non_finite").inc(
                self._settings.policy.groups_per_step
            )
            return None
        for result, number in (self.trainer.counts - before).items():
            metrics.REWARD_GROUPS.labels(result=result).inc(number)
            said = {"request": event.request_id, "result": result, "offset": offset}
            logger.debug("group", extra=said)
        for mismatch in self.trainer.last_mismatches:
            metrics.LOGPROB_MISMATCH.observe(mismatch)
        if report is not None:
            self._save(report)
            metrics.TRAINING_SECONDS.observe(time.perf_counter() - started)
        return report

    def _save(self, report: StepReport) -> None:
        self._log.append(report)
        save_checkpoint(self._root, self.trainer.state(epoch=self._publisher.epoch))
        metrics.TRAINING_STEPS.inc()
        metrics.LOGPROB_MISMATCH_MAX.set(report.logprob_mismatch_max)
        metrics.POLICY_OBJECTIVE.set(report.objective)
        metrics.POLICY_KL.set(report.kl)
        logger.info(
            "step done",
            extra={"step": report.step, "objective": report.objective, "loss": report.loss},
        )

    def _due(self) -> bool:
        since = max(self._publisher.served.manifest.steps, self._attempted)
        return self.trainer.steps - since >= self._settings.policy.steps_per_publish

    async def _publish(self, report: StepReport) -> None:
        steps = self.trainer.steps - self._publisher.served.manifest.steps
        outcome = await self._publisher.publish(
            Candidate(
                weights=self._weights,
                steps=self.trainer.steps,
                next_offset=report.next_offset,
                groups_used=steps * self._settings.policy.groups_per_step,
                probes=self.trainer.last_impressions[:PROBES],
            )
        )
        if outcome is not Publication.PUBLISHED:
            self._attempted = self.trainer.steps
        if outcome is Publication.MISMATCH:
            await self._in_thread(self._return_to_served)

    def _return_to_served(self) -> None:
        self.trainer.return_to(self._publisher.served.generator)
        save_checkpoint(self._root, self.trainer.state(epoch=self._publisher.epoch))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
