"""`oxygenrec report`: what can be said about the past of a shop, without any server.

numpy, pyarrow and matplotlib are loaded by the verb that needs them.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from agents.exit_codes import ExitCode
from agents.settings import Settings, load_settings

if TYPE_CHECKING:
    from models.evaluation.freshness import FreshnessReport, Interval
    from models.training.folder import FolderData

app = typer.Typer(
    name="report",
    help="Reports on a shop's own past.",
    epilog="Exit codes: " + ", ".join(f"{code.value} {code.name}" for code in ExitCode),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def reports() -> None:
    """Reports on a shop's own past."""


@app.command()
def freshness(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="items.parquet, and what the users did.")
    ],
    users: Annotated[int, typer.Option(min=1, help="Of more users, so many are drawn.")] = 5_000,
    new_items: Annotated[
        bool, typer.Option("--new-items", help="Judge only items new to their user.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw cosine and share by age.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the users and intervals that are drawn.")] = 0,
) -> None:
    """Shows how old instructions would have been, and how well they fit what came next.

    Replays DIR (items.parquet with events.parquet or interactions.parquet) through the window core
    and the local reasoner, once with `trigger = close` and once with `first`. Of every high-value
    action: the age of its user's instruction, and the cosine between that and the item's text.
    Without items.parquet: ages alone. Windows and what is high-value are those of the settings.

    \b
    oxygenrec report freshness --data ../shared/data/demo
    oxygenrec report freshness --data DIR --json freshness.json --png freshness.png
    OXYGENREC_ROUTER__HIGH_VALUE=view,cart,order oxygenrec report freshness --data DIR
    """
    settings = load_settings()
    folder = read(data)
    found = measure(folder, settings, users=users, new_items=new_items, seed=seed)
    title = f"{data}: {len(folder.actions):,} actions, {len(folder.items):,} items"
    show(found, settings, title, days=folder.day_resolution)
    if json_file is not None:
        about = {"data": str(data), "windows": settings.windows, "seed": seed}
        about["report"] = asdict(found)
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
        typer.echo(f"written: {json_file}")
    if png is not None:
        from models.evaluation.freshness_figure import draw_freshness

        draw_freshness(png, found, f"{data.name}: intent drift by age of the instruction")
        typer.echo(f"written: {png}")


def measure(
    folder: "FolderData", settings: Settings, *, users: int, new_items: bool, seed: int
) -> "FreshnessReport":
    """Returns the report of a folder's data. Raises `NothingToCompare`, `TextEncoderUnfit`."""
    import numpy as np

    from agents.freshness_replay import ReplayConfig, both_triggers, users_of
    from models.evaluation.freshness import AGES, DAY_AGES, report
    from models.reasoning.item_text import item_text
    from models.reasoning.text_encoder import CharacterEncoder

    router = settings.router
    config = ReplayConfig(
        windows=settings.windows,
        high_value=router.high_value_table,
        live_lag_ms=router.live_lag_ms,
        history_length=router.history_length,
        new_items=new_items,
        seed=seed,
    )
    chosen = users_of(folder.actions, users, seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("text encoder", total=2 * len(chosen))
        encoder = None
        if folder.items:
            encoder = CharacterEncoder.fit([item_text(item) for item in folder.items])
        progress.update(bar, description="users")
        replays = both_triggers(
            chosen, folder.items, encoder, config, lambda: progress.advance(bar)
        )
    ages = DAY_AGES if folder.day_resolution else AGES
    return report(replays, settings.instructions.expires_ms, np.random.default_rng(seed), ages)


def show(found: "FreshnessReport", settings: Settings, title: str, *, days: bool) -> None:
    """Prints a table by age and trigger, the shares, and what separates the triggers.

    `days`: nothing finer is known, the order within a day is real and its minutes are not.
    """
    console = Console(width=110)
    table = Table(title=title, title_justify="left")
    for column in ("trigger", "age", "actions", "share", "users", "cosine [95 %]", "by chance"):
        table.add_column(column, justify="left" if column in ("trigger", "age") else "right")
    for name, trigger in found.triggers.items():
        for row in trigger.by_age:
            table.add_row(
                *(name, row.age, f"{row.actions:,}", f"{row.actions / trigger.actions:.1%}"),
                f"{row.cosine.users:,}" if row.cosine else "-",
                interval(row.cosine) if row.cosine else "-",
                "-" if row.chance is None else f"{row.chance:.3f}",
            )
        table.add_section()
    console.print(table)
    expires_h = settings.instructions.expires_ms / 3_600_000
    for name, trigger in found.triggers.items():
        median_s = trigger.median_age_s
        age = "-" if days or median_s is None else f"{median_s:,.0f} s"
        typer.echo(
            f"{name}: {trigger.actions:,} high-value actions; {trigger.fresh:.1%} under an"
            f" instruction of at most {expires_h:g} h (median {age}), {trigger.expired:.1%} under"
            f" an expired one, {trigger.none:.1%} under none"
        )
    if (both := found.comparison) is None:
        return
    if both.gap is not None:
        typer.echo(
            f"where both had one, cosine {both.other} - {both.one}: {interval(both.gap, '+.3f')}"
            f" ({both.gap.actions:,} actions of {both.gap.users:,} users)"
        )
    if both.gained is not None:
        chance = "unknown" if both.chance is None else f"{both.chance:.3f}"
        typer.echo(
            f"where only {both.other} had one, its cosine: {interval(both.gained)}, by chance"
            f" {chance} ({both.gained.actions:,} actions of {both.gained.users:,} users)"
        )


def interval(found: "Interval", form: str = ".3f") -> str:
    """Returns `0.412 [0.401, 0.423]`."""
    mean, low, high = (format(value, form) for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def read(data: Path) -> "FolderData":
    """Returns the folder's data, without items.parquet its events. Raises `UnusableFolder`."""
    from models.training.folder import FolderData, read_events, read_folder

    if (data / "items.parquet").is_file() or not (data / "events.parquet").is_file():
        return read_folder(data)
    return FolderData(items=[], actions=list(read_events(data)), day_resolution=False)
