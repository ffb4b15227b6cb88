"""`restore`: what the command line says while Redis is rebuilt."""

import asyncio

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from agents.restore import restore
from agents.settings import Settings


def show_restore(settings: Settings, *, force: bool) -> None:
    """Restores with a progress bar a log; says what was written. Raises what `restore` raises."""
    with Progress(console=Console(stderr=True)) as progress:
        bars: dict[str, TaskID] = {}

        def report(log: str, done: int, total: int) -> None:
            if log not in bars:
                bars[log] = progress.add_task(log, total=total)
            progress.update(bars[log], completed=done)

        done = asyncio.run(restore(settings, report, force=force))
    if done is None:
        typer.echo("nothing is missing: Redis holds its epoch (--force replays all the same)")
        return
    typer.echo(
        f"restored {done.profiles} profiles, {done.items} items, {done.actions} actions,"
        f" {done.instructions} instructions; the writers go on"
    )
