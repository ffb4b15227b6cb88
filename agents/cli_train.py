"""`oxygenrec train`: a generation from a data folder, one TOML file an experiment.

The generation stands where `oxygenrec up --data DIR` looks for it. Beside it, in `training/`: the
checkpoint of a run under way, and its steps as JSON lines and for TensorBoard. torch and pyarrow
are loaded when the verb runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.exit_codes import ExitCode
from schemas.errors import OxygenRecError

if TYPE_CHECKING:
    from models.training.fit import FitConfig, FitProgress, GenerationManifest
    from models.training.training_loop import Progress

USAGE = (
    "CheckpointOfAnotherRun",
    "CodebookConfigInvalid",
    "ComputeUnavailable",
    "EncoderFolderInvalid",
    "ExperimentInvalid",
    "GeneratorConfigInvalid",
    "NeighboursInvalid",
    "NothingToLearn",
)


class TrainingRefused(OxygenRecError):
    """An error of the models' rooms, which know no exit codes, with the one it ends with."""

    def __init__(self, *, cause: OxygenRecError, exit_code: ExitCode) -> None:
        self.exit_code = exit_code
        super().__init__(str(cause))


class TorchMissing(OxygenRecError):
    """This environment lacks what training needs: an agent's has no torch, faiss or pyarrow."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, module: str) -> None:
        self.module = module
        super().__init__(
            f"found no {module} in this environment, wanted the extras `models` and `datasets`"
            " (`make setup` brings both)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where a run writes."""

    home: Path
    generation: int

    @property
    def folder(self) -> Path:
        """The generation, there when it is whole."""
        return self.home / "generations" / str(self.generation)

    @property
    def checkpoint(self) -> Path:
        """The state of the run under way."""
        return self.home / "training" / f"{self.generation}.safetensors"

    @property
    def lines(self) -> Path:
        """One JSON line a step."""
        return self.home / "training" / f"{self.generation}.jsonl"

    @property
    def events(self) -> Path:
        """TensorBoard's files: a run a generation."""
        return self.home / "training" / "tensorboard" / str(self.generation)


def train(
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="items.parquet, and interactions.parquet or events.parquet."
        ),
    ],
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The experiment, as TOML.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="builtin, minilm or a folder; instead of the file's."),
    ] = None,
    generation: Annotated[int, typer.Option(min=1, help="Number of the new generation.")] = 1,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
) -> None:
    """Trains a generation on your own data, for `oxygenrec up --data DIR`.

    A run that was cut goes on when the same command is given again. Each user's last interactions
    that `up` plays are not learnt from.

    \b
    oxygenrec train --data ../shared/data/demo
    oxygenrec train --data ../shared/data/demo --config experiment.toml --steps 2000
    oxygenrec train --data ../shared/data/demo --encoder minilm
    OXYGENREC_HOME=/tmp/shop oxygenrec train --data ../shared/data/demo --generation 2
    torchrun --nproc-per-node 2 -m agents.cli train --data ../shared/data/demo
    """
    with _exit_codes(), _torchrun() as rank:
        from models.training.experiment import read_experiment
        from models.training.fit import FitConfig

        experiment = read_experiment(config) if config else FitConfig()
        training = experiment.training
        training = training if steps is None else replace(training, steps=steps)
        training = training if seed is None else replace(training, seed=seed)
        encoder = experiment.encoder if encoder is None else encoder
        experiment = replace(experiment, training=training, encoder=encoder)
        manifest, files = _fit(data, experiment, generation, checkpoint_every, rank)
        if rank == 0:
            files.checkpoint.unlink(missing_ok=True)
            _show(manifest, files, data)


def _fit(
    data: Path, experiment: FitConfig, generation: int, checkpoint_every: int, rank: int
) -> tuple[GenerationManifest, Files]:
    """Fits the generation with a bar and a line a step, from the first process alone."""
    from agents.demo.preparation import origin_file, origin_of
    from agents.demo.preparation_job import log_of
    from agents.demo.source import ReplayedSource
    from agents.settings import load_settings
    from models.training.checkpoint import Checkpointing
    from models.training.fit import fit_generation

    settings = load_settings()
    files = Files(home=Path(settings.paths.home), generation=generation)
    # Seed 0 is `oxygenrec up`'s: the same users live on there. The data keep their own times, so
    # that a run given again sees the same windows.
    log = log_of(ReplayedSource(data, 0, None), settings)
    with _told(files, rank) as (bar, line):
        manifest = fit_generation(
            log,
            home=files.home,
            generation=generation,
            created_ms=time.time_ns() // 1_000_000,
            config=experiment,
            progress=bar,
            on_step=line,
            checkpointing=Checkpointing(path=files.checkpoint, every=checkpoint_every),
        )
    if rank == 0:
        origin_file(files.folder).write_text(origin_of(data, 0))
    return manifest, files


@contextmanager
def _told(
    files: Files, rank: int
) -> Iterator[tuple[Callable[[FitProgress], None], Callable[[Progress], None]]]:
    """Yields what draws the bar and what writes a step down; nothing for other processes."""
    if rank:
        yield (lambda _: None), (lambda _: None)
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from models.training.curves import Curves

    tasks: dict[str, TaskID] = {}
    with (
        Bars(console=Console(stderr=True)) as bars,
        Curves(files.lines, files.events, time.time) as curves,
    ):

        def bar(said: FitProgress) -> None:
            if said.stage not in tasks:
                tasks[said.stage] = bars.add_task(said.stage, total=said.total)
            description = f"{said.stage}  {said.note}" if said.note else said.stage
            bars.update(tasks[said.stage], completed=said.done, description=description)

        yield bar, curves


def _show(manifest: GenerationManifest, files: Files, data: Path) -> None:
    typer.echo(
        f"{files.folder}: {manifest.preset}, {manifest.rows} rows, {manifest.steps} steps,"
        f" code loss {manifest.code_ce:.3f}, item loss {manifest.item_ce:.3f} nats"
    )
    typer.echo(f"losses of every step: {files.lines}; tensorboard --logdir {files.events.parent}")
    if manifest.generation == 1:
        typer.echo(f"serve it: oxygenrec up --data {data}")


@contextmanager
def _torchrun() -> Iterator[int]:
    """Yields this process's rank, in a group where torchrun started several."""
    from torch import cuda, distributed

    if not distributed.is_torchelastic_launched():
        yield 0
        return
    # Losses are exchanged on the host, gradients where the weights are.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Gives the errors of `models`, which know no exit codes, theirs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TorchMissing(module=error.name or str(error)) from error
    except OxygenRecError as error:
        if type(error).__name__ not in USAGE:
            raise
        raise TrainingRefused(cause=error, exit_code=ExitCode.USAGE) from error
