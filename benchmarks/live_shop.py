"""The whole loop on this machine, brought up as the demo does: what benchmarks of serving ask."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.demo.bring_up import BringUp
from agents.demo.edge_client import EdgeClient
from agents.demo.live import HISTORY_BATCH
from agents.demo.local_stack import environment_of, stack_spec
from agents.demo.preparation import Preparation
from agents.demo.source import Source, open_source
from agents.demo.traffic import now_ms
from agents.demo.view import DemoView
from agents.settings import Settings
from streams.local.stack import LocalStack

SEED = 0


@dataclass(frozen=True, slots=True)
class LiveShop:
    """A running stack with version 1 in force, and the simulated shop that is to use it."""

    stack: LocalStack
    source: Source
    settings: Settings

    @property
    def generator(self) -> str:
        """Where decoding happens, in words."""
        return "in process" if self.stack.triton is None else "Triton"

    async def remember(self, edge: EdgeClient) -> None:
        """Posts what the shoppers did before."""
        past = self.source.remembered()
        for start in range(0, len(past), HISTORY_BATCH):
            await edge.send(past[start : start + HISTORY_BATCH])


@contextmanager
def live_shop(settings: Settings) -> Iterator[LiveShop]:
    """Starts the servers and workers in `settings.paths.home`, trains, publishes; stops it all."""
    until_ms = now_ms()
    source = open_source(None, SEED, until_ms)
    view = DemoView(Console(stderr=True))
    with LocalStack(stack_spec(settings, report=view.say)) as stack:
        stack.watch()
        preparation = Preparation(
            home=Path(stack.home),
            data=None,
            seed=SEED,
            until_ms=until_ms,
            environment=environment_of(settings),
        )
        with preparation:
            up = BringUp(stack, settings, preparation, view)
            up.servers_and_generation()
            up.catalogue(source.items(), source.profiles())
            up.first_version()
        yield LiveShop(stack, source, up.settings)
