"""`oxygenrec semantic-ids`: fit, judge and extend semantic IDs.

torch, faiss and pyarrow are loaded by the verb that needs them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID
from rich.table import Table

from agents.exit_codes import ExitCode
from schemas.errors import OxygenRecError

if TYPE_CHECKING:
    from models.semantic_ids.alignment import AlignmentConfig
    from models.semantic_ids.fit import SemanticIdsConfig
    from models.semantic_ids.item_table import Items
    from models.semantic_ids.new_items import Progress
    from models.semantic_ids.quality import QualityReport

app = typer.Typer(
    name="semantic-ids",
    help="Fits semantic IDs on a catalogue, judges them, gives new items theirs.",
    epilog="Exit codes: " + ", ".join(f"{code.value} {code.name}" for code in ExitCode),
    no_args_is_help=True,
    rich_markup_mode=None,
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder that `semantic-ids fit` wrote.")
]
USAGE = ("ArtifactExists", "CodebookConfigInvalid", "EncoderMismatch", "ItemFeaturesMismatch")
MISSING = ("TableUnusable", "EncoderFolderInvalid", "TextEncoderUnfit", "NothingToAlign")
GOOD_ROWS_SHOWN = 3


class FolderMissing(OxygenRecError):
    """No folder of semantic IDs where one was named."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{folder}: found no manifest.json, wanted a folder that"
            " `oxygenrec semantic-ids fit --data DATA --out DIR` wrote"
        )


class FileRefused(OxygenRecError):
    """The operating system did not read or write a file."""

    def __init__(self, *, cause: OSError) -> None:
        super().__init__(f"{cause.filename or 'file'}: {cause.strerror or cause}")


class ExtraMissing(OxygenRecError):
    """This environment lacks what the verb needs: an agent's has no torch, faiss or pyarrow."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, module: str) -> None:
        self.module = module
        super().__init__(
            f"found no {module} in this environment, wanted the extras `models` and `datasets`"
            " (`make setup` brings both)"
        )


class SemanticIdsRefused(OxygenRecError):
    """An error of the models' rooms, which know no exit codes, with the one it ends with."""

    def __init__(self, *, cause: OxygenRecError, exit_code: ExitCode) -> None:
        self.exit_code = exit_code
        super().__init__(str(cause))


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Gives the errors of `models`, which know no exit codes, theirs; others become one line."""
    try:
        yield
    except OSError as error:
        raise FileRefused(cause=error) from error
    except ModuleNotFoundError as error:
        raise ExtraMissing(module=error.name or str(error)) from error
    except OxygenRecError as error:
        name = type(error).__name__
        code = ExitCode.USAGE if name in USAGE else ExitCode.MISSING if name in MISSING else None
        if code is None:
            raise
        raise SemanticIdsRefused(cause=error, exit_code=code) from error


@app.command()
@_exit_codes()
def fit(
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="items.parquet, and what else the folder has."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new folder; never written over.")],
    encoder: Annotated[
        str, typer.Option(metavar="builtin|minilm|DIR", help="What turns texts into vectors.")
    ] = "builtin",
    levels: Annotated[int, typer.Option(help="Codes of one semantic ID.")] = 3,
    codes: Annotated[int, typer.Option(help="Codes of one level; the paper has 8192.")] = 256,
    behaviour_weight: Annotated[
        float, typer.Option(min=0.0, help="Weight of co-occurrence beside text; 0: text alone.")
    ] = 0.8,
    align: Annotated[
        bool, typer.Option("--align", help="Move texts by what is chosen together (torch).")
    ] = False,
    iterations: Annotated[int, typer.Option(help="Of one k-means.")] = 25,
    restarts: Annotated[int, typer.Option(help="The best of so many k-means counts.")] = 5,
    points_per_code: Annotated[
        int, typer.Option(help="Codebooks are learnt from at most this times CODES items.")
    ] = 256,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
) -> None:
    """Fits codebooks on a catalogue and assigns its items.

    DIR holds items.parquet (item_id, title, brand, category, tags, vector), interactions.parquet
    (user_id, item_id, pos, split) or events.parquet (user, item, event, ts), and queries.parquet
    (query_id, text) with query_items.parquet (query_id, item_id). Only item_id and title must be
    there. Rows that cannot be used are counted and left out. For a million items:
    --codes 8192 --restarts 1 --iterations 10 --points-per-code 32.

    \b
    oxygenrec semantic-ids fit --data ../shared/data/demo --out .oxygenrec/sids/1 --codes 64
    oxygenrec semantic-ids fit --data ../shared/data/demo --out .oxygenrec/sids/2 --align
    oxygenrec semantic-ids fit --data ../shared/data/amazon14_beauty --out .oxygenrec/sids/3
    """
    from models.semantic_ids.cooccurrence import CooccurrenceConfig
    from models.semantic_ids.fit import SemanticIdsConfig
    from models.semantic_ids.item_features import ItemFeaturesConfig
    from models.semantic_ids.residual_kmeans import ResidualKMeansConfig

    config = SemanticIdsConfig(
        features=ItemFeaturesConfig(behaviour_weight=behaviour_weight),
        cooccurrence=CooccurrenceConfig(seed=seed),
        codebooks=ResidualKMeansConfig(
            levels=levels,
            codes=codes,
            iterations=iterations,
            restarts=restarts,
            points_per_code=points_per_code,
            seed=seed,
        ),
        alignment=_alignment(seed) if align else None,
    )
    _fit(data, out, encoder, config)


@app.command()
@_exit_codes()
def report(
    folder: FolderArgument,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw items per SID, load and purity.")
    ] = None,
) -> None:
    """Shows how good semantic IDs are, over all items assigned so far.

    \b
    oxygenrec semantic-ids report .oxygenrec/sids/1
    oxygenrec semantic-ids report .oxygenrec/sids/1 --json quality.json --png quality.png
    """
    from models.semantic_ids.artifact import Version

    _must_exist(folder)
    version = Version(folder)
    found = version.items.report(version.manifest.codes)
    _show_quality(found, f"{folder}: {version.segments} segment(s)")
    if json_file is not None:
        about = {"codebook_id": version.manifest.codebook_id, "quality": asdict(found)}
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
        typer.echo(f"written: {json_file}")
    if png is not None:
        from models.semantic_ids.quality_figure import draw_quality

        title = f"{found.items:,} items, codebooks {version.manifest.codebook_id}"
        draw_quality(png, found, version.items.sids, version.manifest.codes, title)
        typer.echo(f"written: {png}")


@app.command()
@_exit_codes()
def assign(
    folder: FolderArgument,
    items: Annotated[Path, typer.Option(metavar="FILE", help="Parquet with item_id and title.")],
    encoder: Annotated[
        str | None,
        typer.Option(metavar="builtin|minilm|DIR", help="Where the fit's encoder lies now."),
    ] = None,
) -> None:
    """Gives new items semantic IDs by the frozen codebooks; items that have one keep it.

    \b
    oxygenrec semantic-ids assign .oxygenrec/sids/1 --items ../shared/data/demo/items.parquet
    """
    from models.semantic_ids.artifact import Version
    from models.semantic_ids.encoders import reopen_encoder
    from models.semantic_ids.item_table import read_items
    from models.semantic_ids.new_items import assign_new, without_known

    _must_exist(folder)
    version = Version(folder)
    new = without_known(read_items(items), set(version.items.item_ids))
    _tell_items(new, items)
    if not new.item_ids:
        typer.echo("nothing to assign")
        return
    fitted = version.manifest.encoder
    words = reopen_encoder(folder, fitted.kind, fitted.encoder_id, encoder)
    with _bars() as progress:
        found = assign_new(new, words, version.features, version.codebooks, progress)
    target = version.append(found, new.dropped, int(time.time() * 1_000))
    for item_id, sid in list(zip(found.item_ids, found.sids.tolist(), strict=True))[
        :GOOD_ROWS_SHOWN
    ]:
        typer.echo(f"  {item_id:24} {'-'.join(map(str, sid))}")
    typer.echo(f"published: {target} ({len(found.item_ids):,} items)")


def _fit(data: Path, out: Path, choice: str, config: "SemanticIdsConfig") -> None:
    from models.reasoning.text_encoder import CharacterEncoder
    from models.semantic_ids.artifact import ArtifactExists, publish_version
    from models.semantic_ids.choice_tables import read_behaviour
    from models.semantic_ids.encoders import fit_encoder
    from models.semantic_ids.fit import fit_semantic_ids
    from models.semantic_ids.item_table import read_items, reasons

    if out.exists():
        raise ArtifactExists(path=out)
    items = read_items(data / "items.parquet")
    _tell_items(items, data / "items.parquet")
    behaviour = read_behaviour(data, items.item_ids, config.cooccurrence.window)
    if behaviour is None:
        typer.echo(f"{data}: no interactions and no queries: text alone")
    else:
        found = f"{behaviour.interactions:,} interactions, {len(behaviour.query_texts):,} queries"
        left_out = f"; left out: {reasons(behaviour.dropped)}" if behaviour.dropped else ""
        typer.echo(f"{data}: {found}{left_out}")
    with _bars() as progress:
        progress("text encoder", 0, 1)
        kind, encoder = fit_encoder(choice, items.texts, config.codebooks.seed)
        progress("text encoder", 1, 1)
        fitted = fit_semantic_ids(items, behaviour, encoder, config, progress)
    manifest = publish_version(
        out,
        codebooks=fitted.codebooks,
        features=fitted.features,
        save_encoder=encoder.save if isinstance(encoder, CharacterEncoder) else None,
        items=fitted.items,
        about={
            "created_ms": int(time.time() * 1_000),
            "encoder": {"kind": kind, "encoder_id": encoder.encoder_id},
            "interactions": behaviour.interactions if behaviour else 0,
            "queries": len(behaviour.query_texts) if behaviour else 0,
            "dropped": {**items.dropped, **(behaviour.dropped if behaviour else {})},
            "settings": asdict(config),
        },
    )
    _show_quality(fitted.items.report(manifest.codes), str(out))
    typer.echo(f"published: {out} (codebooks {manifest.codebook_id})")


def _alignment(seed: int) -> "AlignmentConfig":
    from models.semantic_ids.alignment import AlignmentConfig

    return AlignmentConfig(seed=seed)


def _must_exist(folder: Path) -> None:
    if not (folder / "manifest.json").is_file():
        raise FolderMissing(folder=folder)


def _tell_items(items: "Items", path: Path) -> None:
    from models.semantic_ids.item_table import reasons

    left_out = f"; left out: {reasons(items.dropped)}" if items.dropped else ""
    typer.echo(f"{path}: {len(items.item_ids):,} items{left_out}")


def _show_quality(found: "QualityReport", title: str) -> None:
    from models.semantic_ids.quality import PERCENTILE_NAMES

    console = Console(width=100)
    levels = Table(title=title, title_justify="left")
    for column in ("level", "prefixes", "coverage", "codes used", "Gini", "perplexity"):
        levels.add_column(column, justify="right")
    for number, level in enumerate(found.levels, 1):
        use = (f"{level.prefixes:,}", f"{level.coverage:.4%}", f"{level.codes_used:,}")
        levels.add_row(str(number), *use, f"{level.gini:.3f}", f"{level.perplexity:.1f}")
    console.print(levels)
    error = found.reconstruction_error
    figures: Mapping[str, str] = {
        "items": f"{found.items:,}",
        "semantic IDs": f"{found.distinct_sids:,}",
        "items per SID": ", ".join(
            f"{name} {value:g}"
            for name, value in zip(PERCENTILE_NAMES, found.items_per_sid, strict=True)
        ),
        "items that share their SID": f"{found.collision_rate:.2%}",
        "level-1 purity by category depth": ", ".join(f"{p:.4f}" for p in found.purity) or "-",
        "reconstruction error": "-" if error is None else f"{error:.4f}",
    }
    for name, figure in figures.items():
        console.print(f"{name:34} {figure}", highlight=False)


@contextmanager
def _bars() -> Iterator["Progress"]:
    """Gives a function that moves one bar a stage; they go to the terminal's error stream."""
    with Bars(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def told(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield told
