"""Publishes policies: a new version directory, loaded, probed and announced; or nothing at all.

The order keeps every request answered (FLOW, guarantee 8): (1) write the version directory by one
rename, (2) name parent and new version in config.pbtxt, (3) load, (4) probe the new version with
real requests and compare log-probs, (5) announce. The parent stays loaded until the next publish.
When one of them fails, the directory stays to be looked at, the served version alone is loaded
again, and nobody is told.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeVar

from agents.artifact_folders import generation_folder, newest_generation, versions_folder
from agents.decoding_compiler import DecodingCompiler
from agents.index_growth_reader import IndexGrowthReader
from agents.policy_announcements import PolicyAnnouncements
from agents.policy_replica import Replica, open_replica
from agents.settings import Settings
from models.generator.files import load_generator
from models.generator.generator import Generator
from models.policy.parity import answer_mismatch, weight_change_norm
from models.policy.served_policies import VersionDirectories, request_of
from models.serving.index_file import index_of
from models.serving.neighbours_file import neighbours_of_generation
from models.serving.policy_directory import (
    LoadedPolicy,
    Manifest,
    published_versions,
    write_version,
)
from models.serving.triton_config import write_config
from schemas.errors import OxygenRecError
from schemas.generation import GenerationRequest
from schemas.impressions import HistoryFeatures, Impression
from schemas.policies import DEFAULT_LINE, PolicyPublished
from streams import metrics
from streams.catalog_snapshot import read_snapshot
from streams.producer import RecordProducer
from streams.triton_control import TritonControlFailed

T = TypeVar("T")
FIRST = 1

logger = logging.getLogger(__name__)


class Publication(StrEnum):
    """What became of a candidate; also the label of the counter."""

    PUBLISHED = "published"
    NOT_LOADED = "not_loaded"  # the replica refused it or is gone: worth another try later
    MISMATCH = "mismatch"  # it answers, but not as the trainer does: nothing to build on


class ParityFailed(OxygenRecError):
    """The loaded version does not give the trainer's log-probs."""

    def __init__(self, *, version: int, found: float, wanted: float) -> None:
        self.version = version
        self.found = found
        super().__init__(
            f"policy version {version}: log-probs differ from the trainer's by {found:.2g}, wanted"
            f" at most {wanted:g}: compare torch versions and the manifest's hashes"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The trainer's weights after `steps` steps on `rewards` before `next_offset`.

    `probes` are logged requests that the new version must answer as these weights do.
    """

    weights: Generator
    steps: int
    next_offset: int
    groups_used: int
    probes: Sequence[Impression]


class PolicyPublisher:
    """Holds the line: `served` is the version in force, `versions` finds all published ones."""

    def __init__(
        self,
        settings: Settings,
        *,
        versions: VersionDirectories,
        replica: Replica,
        announcements: PolicyAnnouncements,
        compiler: DecodingCompiler,
        thread: Executor,
    ) -> None:
        """Takes open clients; tensors are only touched on `thread`."""
        self.versions = versions
        self.growth = IndexGrowthReader(settings.kafka, versions.growth)
        self._settings = settings
        self._compiler = compiler
        self._replica = replica
        self._announcements = announcements
        self._thread = thread
        self._served: LoadedPolicy | None = None

    @property
    def epoch(self) -> int:
        """The fencing epoch that this writer claimed."""
        return self._announcements.epoch

    @property
    def served(self) -> LoadedPolicy:
        """The announced version. Raises RuntimeError before `begin`."""
        if self._served is None:
            raise RuntimeError("PolicyPublisher is used before `begin`")
        return self._served

    async def begin(self) -> None:
        """Claims the line and loads what it serves. Raises NothingPublished, VersionGone."""
        announced = await self._announcements.claim()
        self._served = (
            await self._in_thread(lambda: self.versions.require(announced.stable_version))
        ).loaded
        await self._in_thread(self._begin_growth)
        metrics.PUBLISHED_POLICY_VERSION.set(announced.stable_version)

    def _begin_growth(self) -> None:
        """Requests in flight were served by the version in force or by its parent."""
        manifest = self.served.manifest
        parent = None if manifest.parent is None else self.versions(manifest.parent)
        oldest = manifest if parent is None else parent.loaded.manifest
        self.versions.growth.restart(min(oldest.index_offset, manifest.index_offset))

    async def publish(self, candidate: Candidate) -> Publication:
        """Publishes the candidate as the next version, or says why nothing was announced.

        Raises FencedWriter when another trainer took over.
        """
        await self._announcements.check()
        parent = self.served
        try:
            loaded = await self._write(candidate, parent.manifest)
            await self._try(candidate, loaded)
        except ParityFailed as error:
            result = await self._withdraw(Publication.MISMATCH, error)
        except (OxygenRecError, OSError) as error:
            result = await self._withdraw(Publication.NOT_LOADED, error)
        else:
            await self._announcements.announce(announcement(loaded.manifest))
            self._served = loaded
            metrics.PUBLISHED_POLICY_VERSION.set(loaded.manifest.policy_version)
            result = Publication.PUBLISHED
            logger.info("policy published", extra={"version": loaded.manifest.policy_version})
        metrics.PUBLICATIONS.labels(result=result).inc()
        return result

    async def _write(self, candidate: Candidate, parent: Manifest) -> LoadedPolicy:
        assignments, index_offset = await read_snapshot(self._settings.kafka, parent.generation)
        number = 1 + max(published_versions(self.versions.repository), default=0)

        def write() -> LoadedPolicy:
            manifest = Manifest(
                policy_version=number,
                generation=parent.generation,
                index_offset=index_offset,
                scenarios=parent.scenarios,
                created_ms=int(time.time() * 1_000),
                parent=parent.policy_version,
                reward_offsets=(parent.reward_offsets[1], candidate.next_offset),
                groups_used=candidate.groups_used,
                steps=candidate.steps,
                weight_change_norm=weight_change_norm(candidate.weights, self.served.generator),
            )
            index = index_of(assignments, generation=parent.generation, scenarios=parent.scenarios)
            tables = self.served.neighbours  # the generation's: learning does not move them
            compiled = self._compiler.artifact(candidate.weights.config)
            write_version(
                self.versions.repository, manifest, candidate.weights, index, tables, compiled
            )
            return self.versions.require(number).loaded

        return await self._in_thread(write)

    async def _try(self, candidate: Candidate, loaded: LoadedPolicy) -> None:
        version = loaded.manifest.policy_version
        self._name_versions([self.served.manifest.policy_version, version])
        await self._replica.load(version)
        wanted = self._settings.policy.publish_logprob_mismatch
        for impression in candidate.probes:
            response = await self._replica.probe(request_of(impression), version)
            await self.growth.reach(response.index_offset)  # the replica has read on
            served = self.versions.require(version, response.index_offset)
            found = await self._in_thread(
                partial(answer_mismatch, candidate.weights, served, impression, response)
            )
            if not found <= wanted:  # NaN is no parity either
                raise ParityFailed(version=version, found=found, wanted=wanted)

    async def _withdraw(self, result: Publication, error: Exception) -> Publication:
        logger.error("policy not published", extra={"result": result, "cause": str(error)})
        served = self.served.manifest.policy_version
        self._name_versions([served])
        with contextlib.suppress(TritonControlFailed):  # back again, it reads config.pbtxt
            await self._replica.load(served)
        return result

    def _name_versions(self, versions: Sequence[int]) -> None:
        name_versions(self.versions, versions, self.served.generator)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def publish_first(settings: Settings) -> None:
    """Publishes the offline model of the newest generation as version 1, unless one is announced.

    Needs the catalogue in `semantic-ids`. With a Triton address the version is loaded and probed
    there, without one in this process. Raises NoGeneration, ItemIndexInvalid.
    """
    asyncio.run(ensure_published(settings))


async def ensure_published(
    settings: Settings, compiler: DecodingCompiler | None = None
) -> PolicyPublished:
    """Returns what is announced, after publishing version 1 where nothing is (`publish_first`).

    `compiler`: the process' one, if it has one.
    """
    compiler = compiler or DecodingCompiler(settings)
    async with AsyncExitStack() as stack:
        producer = RecordProducer(settings.kafka, "oxygenrec-first-version")
        stack.push_async_callback(asyncio.to_thread, producer.close)
        announcements = PolicyAnnouncements(settings.kafka, producer)
        if (announced := await announcements.newest()) is not None:
            return announced
        versions = VersionDirectories(versions_folder(settings))
        loaded = await _first_version(settings, versions, compiler)
        name_versions(versions, [FIRST], loaded.generator)
        replica = await stack.enter_async_context(open_replica(settings))
        await replica.load(FIRST)
        empty = HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[])
        scenario = loaded.manifest.scenarios[0]
        await replica.probe(GenerationRequest(scenario=scenario, history=empty, beams=1), FIRST)
        announcements.epoch = 1
        return await announcements.announce(announcement(loaded.manifest))


async def _first_version(
    settings: Settings, versions: VersionDirectories, compiler: DecodingCompiler
) -> LoadedPolicy:
    if (existing := await asyncio.to_thread(versions, FIRST)) is not None:
        return existing.loaded  # written by one that fell before it could announce
    generation = newest_generation(settings)
    assignments, index_offset = await read_snapshot(settings.kafka, generation)
    scenarios = list(settings.serving.scenarios)
    manifest = Manifest(
        policy_version=FIRST,
        generation=generation,
        index_offset=index_offset,
        scenarios=scenarios,
        created_ms=int(time.time() * 1_000),
    )
    index = index_of(assignments, generation=generation, scenarios=scenarios)
    folder = generation_folder(settings, generation)
    neighbours = neighbours_of_generation(folder)
    weights = load_generator(folder)
    compiled = await asyncio.to_thread(compiler.artifact, weights.config)
    write_version(versions.repository, manifest, weights, index, neighbours, compiled)
    return versions.require(FIRST).loaded


@asynccontextmanager
async def open_publisher(
    settings: Settings,
    producer: RecordProducer,
    thread: Executor,
    compiler: DecodingCompiler | None = None,
) -> AsyncIterator[PolicyPublisher]:
    """Opens a publisher with its own connection to the replica."""
    async with open_replica(settings) as replica:
        yield PolicyPublisher(
            settings,
            versions=VersionDirectories(versions_folder(settings)),
            replica=replica,
            announcements=PolicyAnnouncements(settings.kafka, producer),
            compiler=compiler or DecodingCompiler(settings),
            thread=thread,
        )


def name_versions(
    versions: VersionDirectories, numbers: Sequence[int], generator: Generator
) -> None:
    """Writes config.pbtxt so that Triton serves exactly `numbers` at its next load."""
    config = generator.config
    write_config(versions.repository, numbers, content_dim=config.content_dim, levels=config.levels)


def announcement(manifest: Manifest) -> PolicyPublished:
    """Returns a version as what the edges are told; the epoch is the announcer's to set."""
    return PolicyPublished(
        line=DEFAULT_LINE,
        stable_version=manifest.policy_version,
        generation=manifest.generation,
        index_offset=manifest.index_offset,
        epoch=0,
        published_ms=int(time.time() * 1_000),
    )
