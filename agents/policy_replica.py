"""One generator replica as the publisher sees it: told to load, then asked with real requests."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agents.artifact_folders import versions_folder
from agents.ports import Generator
from agents.settings import Settings
from schemas.errors import OxygenRecError
from schemas.generation import GenerationRequest, GenerationResponse
from streams.triton_client import TritonGenerator
from streams.triton_control import TritonControl

PROBE_DEADLINE_MS = 10_000  # the first request of a fresh stub warms torch up: 1-2 s on busy cores


class WrongVersionAnswered(OxygenRecError):
    """The replica answered with another version than it was asked for."""

    def __init__(self, *, found: int, wanted: int) -> None:
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"a probe of policy version {wanted} was answered by {found}: compare the manifest of"
            " the version with its folder's name"
        )


class Replica:
    """`load(version)` makes the version answer beside those that config.pbtxt names."""

    def __init__(self, generator: Generator, load: Callable[[int], Awaitable[None]]) -> None:
        """Takes an open generator and how it loads."""
        self._generator = generator
        self.load = load

    async def probe(self, request: GenerationRequest, version: int) -> GenerationResponse:
        """Returns a real answer of exactly this version.

        Raises GeneratorUnavailable, BadGenerationRequest, WrongVersionAnswered.
        """
        response = await self._generator.generate(
            request, version=version, deadline_ms=PROBE_DEADLINE_MS
        )
        if response.policy_version != version:
            raise WrongVersionAnswered(found=response.policy_version, wanted=version)
        return response


@asynccontextmanager
async def open_replica(settings: Settings) -> AsyncIterator[Replica]:
    """Opens Triton as the replica, or without its address the same generator in this process."""
    triton = settings.triton
    if not triton.grpc_url:
        from agents.in_process_generator import InProcessGenerator  # needs torch

        folder = versions_folder(settings)
        async with InProcessGenerator(folder, settings) as generator:
            yield Replica(generator, generator.prepare)
        return
    scenarios = settings.serving.scenarios
    async with TritonControl(triton) as control, TritonGenerator(triton, scenarios) as client:

        async def load(_version: int) -> None:
            await control.load()  # config.pbtxt names the versions

        yield Replica(client, load)
