"""The job behind `agents.demo.preparation`: fit a generation, publish version 1 when told where.

Runs with the settings of the workers that will serve: the training rows carry the instructions
which those windows would have given. Torch is imported when there is something to fit or publish.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agents.artifact_folders import generation_folder
from agents.demo.bring_up import GENERATION
from agents.demo.preparation import (
    GENERATION_READY,
    VERSION_PUBLISHED,
    Progress,
    origin_file,
    origin_of,
)
from agents.demo.source import Source, open_source
from agents.demo.training_windows import served_windows
from agents.log_lines import configure_logging
from agents.settings import Settings, load_settings

if TYPE_CHECKING:
    from models.training.fit import FitProgress, Log


def main() -> None:
    """Does both parts; the end of standard input between them ends it without publishing."""
    given = _arguments()
    settings = load_settings()
    configure_logging(settings.log)
    with given.to.open("ab", buffering=0) as file:
        generation = generation_folder(settings, GENERATION)
        if not generation.is_dir():
            source = open_source(given.data, given.seed, given.until_ms)
            generation.parent.mkdir(parents=True, exist_ok=True)
            origin_file(generation).write_text(origin_of(given.data, given.seed))
            fit(source, settings, given.until_ms, partial(_tell, file.write))
        _write(file.write, Progress(stage=GENERATION_READY, done=1, total=1))
        if not (line := sys.stdin.readline()):
            return
        from agents.policy_publisher import publish_first

        publish_first(load_settings({**os.environ, **msgspec.json.decode(line)}))
        _write(file.write, Progress(stage=VERSION_PUBLISHED, done=1, total=1))


def fit(
    source: Source, settings: Settings, created_ms: int, progress: Callable[[FitProgress], None]
) -> None:
    """Fits the first generation below `paths.home`.

    Raises `NothingToLearn`, `EncoderFolderInvalid`.
    """
    from models.training.fit import FitConfig, fit_generation
    from models.training.training_loop import TrainingConfig

    fit_generation(
        log_of(source, settings),
        home=Path(settings.paths.home),
        generation=GENERATION,
        created_ms=created_ms,
        config=FitConfig(
            encoder=settings.offline.encoder,
            features=settings.offline.features,
            training=TrainingConfig(steps=settings.offline.steps),
        ),
        progress=progress,
    )


def log_of(source: Source, settings: Settings) -> Log:
    """Returns what is learnt from, under the windows of `settings`."""
    from models.training.fit import Log

    return Log(
        items=source.items(),
        actions=source.past(),
        windows=served_windows(settings, expire=source.timed),
        scenarios=settings.serving.scenarios,
        profiles={profile.user_id: profile for profile in source.profiles()},
    )


def _tell(write: Callable[[bytes], object], said: FitProgress) -> None:
    _write(write, Progress(stage=said.stage, done=said.done, total=said.total, note=said.note))


def _write(write: Callable[[bytes], object], progress: Progress) -> None:
    write(msgspec.json.encode(progress) + b"\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="file of progress lines")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--until-ms", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
