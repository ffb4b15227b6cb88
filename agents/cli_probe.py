"""`probe`: whether the generator decodes. Over a dead python stub Triton says "ready"; this asks.

Made for a liveness probe of the generator's pod, and for people.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import typer

from agents.exit_codes import ExitCode
from agents.settings import Settings
from schemas.errors import OxygenRecError
from schemas.generation import BadGenerationRequest, GenerationRequest, GeneratorUnavailable
from schemas.impressions import HistoryFeatures
from streams.connections import TritonConfig
from streams.local.errors import NotRunning
from streams.local.state import read_state
from streams.triton_client import TritonGenerator
from streams.triton_control import TritonControl


class GeneratorDead(OxygenRecError):
    """A loaded version does not decode, or none is loaded."""

    exit_code = ExitCode.FAILED

    def __init__(self, *, url: str, detail: str) -> None:
        self.url = url
        super().__init__(
            f"Triton at {url}: {detail}; `oxygenrec probe --heal` loads it anew, as a restart does"
        )


def show_probe(settings: Settings, *, deadline_ms: int, heal: bool) -> None:
    """Prints each loaded version's answer. Raises `GeneratorDead`, `TritonControlFailed`."""
    settings = replace(settings, triton=_triton_of(settings))
    if not settings.triton.grpc_url:
        typer.echo("no Triton here: the edge decodes in process, and /readyz asks it")
        return
    asyncio.run(_probe(settings, deadline_ms, heal=heal))


def _triton_of(settings: Settings) -> TritonConfig:
    """Returns the server that the settings name, else the one of the stack that runs here."""
    if settings.triton != TritonConfig():
        return settings.triton
    try:
        addresses = read_state(Path(settings.paths.home)).addresses
    except NotRunning:
        return settings.triton
    return replace(settings.triton, grpc_url=addresses.triton_grpc_url)


async def _probe(settings: Settings, deadline_ms: int, *, heal: bool) -> None:
    async with TritonControl(settings.triton) as control:
        dead = await canaries(settings, await control.versions(), deadline_ms)
        if dead is not None and heal:
            typer.echo(f"{dead}: unloading and loading {settings.triton.model}")
            await control.unload()
            await control.load()
            dead = await canaries(settings, await control.versions(), deadline_ms)
    if dead is not None:
        raise GeneratorDead(url=settings.triton.grpc_url, detail=dead)


async def canaries(settings: Settings, versions: list[int], deadline_ms: int) -> str | None:
    """Decodes one request with each version, and says which; returns what is wrong, if anything."""
    if not versions:
        return f"no version of {settings.triton.model} is loaded"
    scenarios = settings.serving.scenarios
    canary = GenerationRequest(
        scenario=scenarios[0],
        history=HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[]),
        beams=settings.serving.beams,
    )
    for version in versions:
        async with TritonGenerator(settings.triton, scenarios) as generator:
            try:
                answer = await generator.generate(canary, version=version, deadline_ms=deadline_ms)
            except (GeneratorUnavailable, BadGenerationRequest) as error:
                return f"version {version} does not decode ({error})"
        typer.echo(
            f"version {version} decodes: {len(answer.items)} items,"
            f" generation {answer.generation}, index offset {answer.index_offset}"
        )
    return None
