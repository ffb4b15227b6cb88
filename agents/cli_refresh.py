"""`refresh`: what the command line says while active users get new instructions."""

import asyncio
import time
from collections.abc import Sequence

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import Progress

from agents.exit_codes import ExitCode
from agents.refresh import Refresh, Report
from agents.settings import Settings
from schemas import topics
from schemas.errors import OxygenRecError
from schemas.instructions import InstructionTrigger
from streams.admin import check_topics
from streams.producer import RecordProducer
from streams.redis_client import worker_client
from streams.redis_refresh import RedisRefresh, RefreshProgress

CLIENT = "oxygenrec-refresh"


class RefreshCut(OxygenRecError):
    """Redis did not go on to answer."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, url: str, cause: str) -> None:
        self.url = url
        super().__init__(
            f"Redis at {url}: {cause}; then `oxygenrec refresh` again: it goes on where it was cut"
        )


def show_refresh(settings: Settings, *, restart: bool) -> None:
    """Refreshes with a progress bar; says how many. Raises `TopicsDiffer`, `RefreshCut`."""
    check_topics(settings.kafka, (topics.INSTRUCTION_REFRESHES,))
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("keys of Redis", total=None)

        def report(so_far: RefreshProgress, keys_there_are: int) -> None:
            # keys that come or go meanwhile move the end: the bar never passes it
            total = max(keys_there_are, so_far.keys)
            progress.update(bar, completed=so_far.keys, total=total)

        with RecordProducer(settings.kafka, CLIENT) as producer:
            done = asyncio.run(_refresh(settings, producer, report, restart=restart))
    typer.echo(f"{done.users} users refreshed: the instruction writer makes their instructions")


async def _refresh(
    settings: Settings, producer: RecordProducer, report: Report, *, restart: bool
) -> RefreshProgress:
    async def send(refreshes: Sequence[InstructionTrigger]) -> None:
        sent = [producer.send(topics.INSTRUCTION_REFRESHES, one, one.user_id) for one in refreshes]
        await asyncio.gather(*map(asyncio.wrap_future, sent))

    client = worker_client(settings.redis)
    job = Refresh(
        config=settings.refresh,
        windows=settings.windows,
        store=RedisRefresh(client),
        send=send,
        now_ms=lambda: time.time_ns() // 1_000_000,
        monotonic_s=time.monotonic,
    )
    try:
        return await job.run(report, restart=restart)
    except RedisError as error:
        raise RefreshCut(url=settings.redis.url, cause=str(error)) from error
    finally:
        await client.aclose()
